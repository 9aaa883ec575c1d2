"""What the daemon's messages hold: made from ``ocd/wire/messages.py`` by ``python docs/make.py``."""

# fmt: off
# ruff: noqa: E501
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STATES: "tuple[str, ...]" = ('disabled', 'stopped', 'draining', 'idle', 'starting', 'ready', 'blocked', 'crash-loop', 'failed')
FIELDS: "dict[str, tuple[tuple[Any, ...], ...]]" = {
    'Status': (('api', 'i', 1), ('version', 's'), ('pid', 'i'), ('keeper_pid', 'i'), ('since', 'f'), ('mode', 's', 'fork'), ('litellm', 's', ''), ('proxies', 'dict ProxyStatus'), ('sessions', 'list Session', []), ('problems', 'list Problem', []), ('limits', 'list PlanLimit', []), ('budgets', 'list BudgetUse', []), ('trace_until', '?f', None), ('external', 's', '')),
    'Version': (('api', 'i', 1), ('version', 's'), ('pid', 'i'), ('litellm', 's', '')),
    'LogLine': (('time', 'f'), ('proxy', 's'), ('generation', 'i'), ('pid', 'i'), ('stream', 's'), ('text', 's')),
    'Event': (('time', 'f'), ('kind', 's'), ('proxy', 's', ''), ('generation', '?i', None), ('text', 's', ''), ('data', 'dict any', {})),
    'ErrorReply': (('error', 'Problem'),),
    'ProxyStatus': (('state', 'state'), ('wanted', 's', 'up'), ('pid', '?i', None), ('port', 'i'), ('generation', 'i', 0), ('restarts', 'i', 0), ('since', 'f'), ('reason', 's', ''), ('next_step', 's', ''), ('cause', 's', ''), ('holder', '?Holder', None), ('memory', '?i', None), ('config', 's', ''), ('revision', 's', ''), ('rejected', 's', ''), ('spare', 's', 'none'), ('retry_at', '?f', None), ('fallbacks', 'i', 0), ('last_fallback', 's', ''), ('last_fallback_at', '?f', None), ('troubles', 'list Trouble', []), ('members', 'list Member', [])),
    'Session': (('pid', 'i'), ('cwd', 's'), ('since', 'f'), ('requests', 'i', 0), ('tokens', 'i', 0), ('last_slot', 's', ''), ('last_upstream', 's', ''), ('last_request', '?f', None), ('kind', 's', ''), ('id', 's', ''), ('account', 's', '')),
    'Problem': (('code', 's'), ('what', 's'), ('why', 's', ''), ('next', 's', ''), ('exit', 'i', 70)),
    'PlanLimit': (('login', 's'), ('accounts', 'list s', []), ('windows', 'list PlanWindow'), ('binding', 's', ''), ('seen', 'f'), ('spilling', 'b', False)),
    'BudgetUse': (('period', 's'), ('spent', 'f'), ('limit', 'f'), ('near', 'b', False), ('used_up', 'b', False), ('action', 's', 'warn'), ('resets', 'f'), ('unpriced', 'i', 0)),
    'Holder': (('pid', '?i', None), ('user', 's', ''), ('command', 's', ''), ('since', '?f', None), ('address', 's', '')),
    'Trouble': (('kind', 's'), ('model', 's', ''), ('slot', 's', ''), ('what', 's'), ('next', 's', ''), ('since', 'f'), ('last', 'f'), ('count', 'i')),
    'Member': (('generation', 'i'), ('pid', '?i'), ('role', 's'), ('since', 'f'), ('memory', '?i', None), ('connections', '?i', None), ('in_flight', '?i', None)),
    'PlanWindow': (('name', 's'), ('used', 'f'), ('reset', '?f', None), ('status', 's', '')),
}
