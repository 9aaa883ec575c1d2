// What a page of another origin tries in the same browser; none of it may learn or change anything.
async (target) => {
  const tries = {
    read: () => fetch(target + "/api/status", {credentials: "include"}).then((r) => r.text()),
    header: () => fetch(target + "/api/status", {credentials: "include", headers: {"x-ocd-page": "x"}}).then((r) => r.text()),
    act: () => fetch(target + "/api/act", {method: "POST", credentials: "include", body: '{"verb":"reload"}'}).then((r) => r.text()),
    blind: () => fetch(target + "/api/act", {method: "POST", mode: "no-cors", credentials: "include", body: '{"verb":"reload"}'}).then((r) => r.type === "opaque" ? Promise.reject("opaque") : r.text()),
    live: () => new Promise((yes, no) => { const s = new EventSource(target + "/api/live", {withCredentials: true}); s.onmessage = yes; s.onerror = () => { s.close(); no("refused"); }; }),
    script: () => new Promise((yes, no) => { const s = document.createElement("script"); s.src = target + "/app.js"; s.onload = yes; s.onerror = () => no("refused"); document.head.append(s); }),
    frame: () => new Promise((yes, no) => { const f = document.createElement("iframe"); f.src = target + "/"; f.onload = () => { try { f.contentDocument.body.textContent.includes("ocd") ? yes("seen") : no("empty"); } catch (e) { no("other origin"); } }; document.body.append(f); }),
    rebound: () => fetch(target.replace("127.0.0.1", "localhost") + "/api/status", {credentials: "include"}).then((r) => r.text()),
  };
  const got = {};
  for (const [name, attempt] of Object.entries(tries)) {
    try { got[name] = "GOT " + String(await attempt()).slice(0, 80); } catch (e) { got[name] = "refused"; }
  }
  return got;
}
