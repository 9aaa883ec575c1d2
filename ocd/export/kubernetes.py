"""Kubernetes, as a kustomize base of ours and an overlay of the user's."""

from ocd.export.deployment import (
    CONFIG,
    CREDENTIALS,
    LITELLM_FILE,
    MEMORY,
    METRICS,
    MOST_MEMORY,
    PORT,
    SETTINGS_FILE,
    STATE,
    USER,
    Deployment,
    flow,
)

NAME = "ocd-team"
OVERLAY = "overlays/team/kustomization.yaml"
_MADE = "# Made by `occtl export kubernetes`; your changes belong into overlays/. docs/team.md says more.\n"
_LABELS = f"app.kubernetes.io/name: {NAME}"
#: networks that are nobody's on the internet: where a database usually is
PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")


def kubernetes(made: Deployment) -> dict[str, str]:
    """Path → text. What lies in ``overlays/`` is for the first time alone."""
    base = {
        "kustomization.yaml": _kustomization(),
        "serviceaccount.yaml": _account(made),
        "deployment.yaml": _deployment(made),
        "service.yaml": _service(made),
        "networkpolicy.yaml": _policy(made),
        "poddisruptionbudget.yaml": _budget(),
        SETTINGS_FILE: made.toml,
        LITELLM_FILE: made.litellm,
    }
    return {**{f"base/{path}": text for path, text in base.items()}, OVERLAY: _overlay(made)}


def _kustomization() -> str:
    return f"""\
{_MADE}apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
  - serviceaccount.yaml
  - deployment.yaml
  - service.yaml
  - networkpolicy.yaml
  - poddisruptionbudget.yaml
labels:
  - pairs: {{{_LABELS}}}
    includeSelectors: true
    includeTemplates: true
# Another content is another name, and so a rolling update.
configMapGenerator:
  - name: {NAME}
    files: [{SETTINGS_FILE}, {LITELLM_FILE}]
"""


def _account(made: Deployment) -> str:
    role = ""
    if made.role:
        role = f"  annotations:\n    eks.amazonaws.com/role-arn: {made.role}\n"
    return f"""\
{_MADE}# The workload's identity. On EKS either the annotation eks.amazonaws.com/role-arn (--role-arn, or the patch in
# overlays/), or, with EKS Pod Identity, an association of this account with the role, which needs nothing here.
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {NAME}
{role}# The server asks nothing of Kubernetes; the token for AWS is another one.
automountServiceAccountToken: false
"""


def _deployment(made: Deployment) -> str:
    scheme = "HTTPS" if made.tls else "HTTP"
    tls = "/run/secrets/ocd/tls"
    mounts = [("database", "/run/secrets/ocd/database")]
    # A Secret that is missing keeps the pod from starting: kubectl describe says which.
    secrets = [("database", f"{NAME}-database")]
    if made.tls:
        mounts.append(("tls", tls))
        secrets.append(("tls", f"{NAME}-tls"))
    if made.identity == "file":
        mounts.append(("aws", f"{CREDENTIALS}, subPath: credentials"))
        secrets.append(("aws", f"{NAME}-aws"))
    read = "".join(
        f"            - {{name: {name}, mountPath: {path}, readOnly: true}}\n" for name, path in mounts
    )
    volumes = "".join(
        f"        - {{name: {name}, secret: {{secretName: {secret}, defaultMode: 0440}}}}\n"
        for name, secret in secrets
    )
    return f"""\
{_MADE}apiVersion: apps/v1
kind: Deployment
metadata:
  name: {NAME}
spec:
  replicas: {made.replicas}
  revisionHistoryLimit: 5
  minReadySeconds: 5
  progressDeadlineSeconds: 600
  strategy:
    type: RollingUpdate
    # new before old
    rollingUpdate: {{maxSurge: 1, maxUnavailable: 0}}
  selector:
    matchLabels: {{{_LABELS}}}
  template:
    metadata:
      labels: {{{_LABELS}}}
      annotations:
        prometheus.io/scrape: "true"
        prometheus.io/port: "{METRICS}"
        prometheus.io/path: /metrics
    spec:
      serviceAccountName: {NAME}
      automountServiceAccountToken: false
      # else a Service named ocd would set OCD_PORT, which is a setting
      enableServiceLinks: false
      # After SIGTERM a server is not ready, accepts for 5 seconds more (until every node knows), then finishes its
      # answers for {made.drain} seconds (--drain). So there is no preStop hook.
      terminationGracePeriodSeconds: {made.grace}
      securityContext:
        runAsNonRoot: true
        runAsUser: {USER}
        runAsGroup: {USER}
        fsGroup: {USER}
        seccompProfile: {{type: RuntimeDefault}}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels: {{{_LABELS}}}
      containers:
        - name: server
          image: {made.image}
          args: {flow(made.command(f"{tls}/tls.crt", f"{tls}/tls.key"))}
          env:
            - {{name: OCD_TEAM_DATABASE_FILE, value: /run/secrets/ocd/database/url}}
          ports:
            - {{name: team, containerPort: {PORT}}}
            - {{name: metrics, containerPort: {METRICS}}}
          startupProbe:
            httpGet: {{path: /health/liveness, port: team, scheme: {scheme}}}
            periodSeconds: 2
            failureThreshold: 60
          readinessProbe:
            httpGet: {{path: /health/readiness, port: team, scheme: {scheme}}}
            periodSeconds: 2
            timeoutSeconds: 2
            failureThreshold: 2
          livenessProbe:
            httpGet: {{path: /health/liveness, port: team, scheme: {scheme}}}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 3
          resources:
            requests: {{cpu: 250m, memory: {MEMORY}Mi}}
            # no limit of CPU: it would hold streams up
            limits: {{memory: {MOST_MEMORY}Mi}}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {{drop: [ALL]}}
          volumeMounts:
            # One by one: the folder of a ConfigMap is writable for all by its mode, which ocd refuses.
            - {{name: config, mountPath: {CONFIG}/{SETTINGS_FILE}, subPath: {SETTINGS_FILE}, readOnly: true}}
            - {{name: config, mountPath: {CONFIG}/{LITELLM_FILE}, subPath: {LITELLM_FILE}, readOnly: true}}
{read}\
            - {{name: state, mountPath: {STATE}}}
            - {{name: tmp, mountPath: /tmp}}
      volumes:
        - {{name: config, configMap: {{name: {NAME}}}}}
{volumes}\
        - {{name: state, emptyDir: {{sizeLimit: 256Mi}}}}
        - {{name: tmp, emptyDir: {{sizeLimit: 256Mi}}}}
"""


def _service(made: Deployment) -> str:
    return f"""\
{_MADE}apiVersion: v1
kind: Service
metadata:
  name: {NAME}
spec:
  type: ClusterIP
  selector: {{{_LABELS}}}
  ports:
    - {{name: {"https" if made.tls else "http"}, port: {443 if made.tls else 80}, targetPort: team, protocol: TCP}}
"""


def _policy(made: Deployment) -> str:
    metadata = {"workload": ("169.254.170.23/32", "fd00:ec2::23/128"), "instance": ("169.254.169.254/32",)}
    identity = ""
    if peers := metadata.get(made.identity):
        blocks = "".join(f"        - ipBlock: {{cidr: {one}}}\n" for one in peers)
        what = "EKS Pod Identity's agent on the node" if made.identity == "workload" else "the machine's role"
        identity = f"    # {what}\n    - to:\n{blocks}      ports: [{{port: 80, protocol: TCP}}]\n"
    private = "".join(f"        - ipBlock: {{cidr: {one}}}\n" for one in PRIVATE)
    return f"""\
{_MADE}apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {NAME}
spec:
  podSelector:
    matchLabels: {{{_LABELS}}}
  policyTypes: [Ingress, Egress]
  ingress:
    - ports: [{{port: {PORT}, protocol: TCP}}]
    # figures name people: for the namespace of Prometheus alone
    - from:
        - namespaceSelector:
            matchLabels: {{kubernetes.io/metadata.name: monitoring}}
      ports: [{{port: {METRICS}, protocol: TCP}}]
  egress:
    # names: the cluster's DNS, or a cache of it on the node
    - to:
        - namespaceSelector:
            matchLabels: {{kubernetes.io/metadata.name: kube-system}}
        - ipBlock: {{cidr: 169.254.20.10/32}}
      ports: [{{port: 53, protocol: UDP}}, {{port: 53, protocol: TCP}}]
    # Bedrock and STS. A policy has no names of hosts: with VPC endpoints, write their addresses in an overlay.
    - to:
        - ipBlock: {{cidr: 0.0.0.0/0, except: [169.254.0.0/16]}}
        - ipBlock: {{cidr: "::/0", except: [fe80::/10]}}
      ports: [{{port: 443, protocol: TCP}}]
    # the database, in a private network: yours alone is better, in an overlay
    - to:
{private}      ports: [{{port: 5432, protocol: TCP}}]
{identity}"""


def _budget() -> str:
    return f"""\
{_MADE}apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {NAME}
spec:
  maxUnavailable: 1
  selector:
    matchLabels: {{{_LABELS}}}
"""


def _overlay(made: Deployment) -> str:
    tls = ""
    if made.tls:
        tls = f"#   kubectl create secret tls {NAME}-tls --cert=chain.pem --key=key.pem\n"
    aws = ""
    if made.identity == "file":
        aws = f"#   kubectl create secret generic {NAME}-aws --from-file=credentials=FILE\n"
    return f"""\
# Yours: written once by `occtl export kubernetes`, and never touched again.
#
#   kubectl create secret generic {NAME}-database --from-file=url=FILE
{tls}{aws}#   kubectl diff -k overlays/team; kubectl apply -k overlays/team
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
  - ../../base
# namespace: bedrock
# images:
#   - {{name: {made.image.partition("@")[0].rpartition(":")[0] or made.image}, newName: registry.example/ocd-team}}
# patches:
#   - target: {{kind: ServiceAccount, name: {NAME}}}
#     patch: |-
#       - op: add
#         path: /metadata/annotations
#         value: {{eks.amazonaws.com/role-arn: "arn:aws:iam::ACCOUNT:role/NAME"}}
"""
