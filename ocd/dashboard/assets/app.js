// The page: asks the daemon for what it shows and is told what changes. Text from outside is only ever text.
"use strict";
(() => {
  const VIEWS = [["overview", "Overview"], ["requests", "Requests"], ["sessions", "Sessions"], ["usage", "Usage"], ["routes", "Routes"], ["logs", "Events and logs"], ["doctor", "Doctor"]];
  const KEPT = 500;
  const word = sessionStorage.getItem("ocd-page") || "";
  const state = { status: null, requests: [], events: [], agents: null, live: false, view: "overview" };
  const $ = (id) => document.getElementById(id);

  // ------------------------------------------------------------------------------------------------- helpers
  function el(name, properties, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(properties || {})) {
      if (key === "class") made.className = value;
      else if (key in made && key !== "list") made[key] = value;
      else made.setAttribute(key, value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
    return made;
  }
  const count = (value) => Math.round(value).toLocaleString("en");
  const short = (value) => (value < 1000 ? String(Math.round(value)) : value < 999950 ? (value / 1000).toFixed(1) + "k" : (value / 1e6).toFixed(1) + "M");
  const money = (value) => (value === null ? "?" : value >= 0.005 || !value ? "$" + value.toFixed(2) : "$" + value.toFixed(4));
  const percent = (value) => (value < 1 ? Math.floor(value * 100) : Math.round(value * 100)) + " %";
  const clock = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");
  const moment = (at) => new Date(at * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
  function span(seconds) {
    const whole = Math.max(0, Math.floor(seconds));
    if (whole < 60) return whole + "s";
    if (whole < 3600) return Math.floor(whole / 60) + "m " + (whole % 60) + "s";
    if (whole < 86400) return Math.floor(whole / 3600) + "h " + Math.floor((whole % 3600) / 60) + "m";
    return Math.floor(whole / 86400) + "d " + Math.floor((whole % 86400) / 3600) + "h";
  }
  const bytes = (value) => (value === null || value === undefined ? "-" : (value / 1048576).toFixed(0) + " MiB");
  const now = () => Date.now() / 1000;
  const lines = (text) => text.split("\n").filter(Boolean).map((line) => { try { return JSON.parse(line); } catch { return { text: line }; } });

  // A table; columns: [title, cell(row), "n" for numbers]. A cell is text or a node.
  function table(columns, rows, caption) {
    const head = el("tr", {}, ...columns.map(([title, , kind]) => el("th", { scope: "col", class: kind || "" }, title)));
    const body = rows.map((row) => el("tr", {}, ...columns.map(([, cell, kind]) => el("td", { class: kind || "" }, cell(row)))));
    const made = el("table", {}, el("caption", { class: "soft" }, caption), el("thead", {}, head), el("tbody", {}, ...body));
    return el("div", { class: "wide", tabIndex: 0, role: "region", "aria-label": caption }, made);
  }
  // What is drawn again while somebody is in it keeps the focus and the place.
  function draw(holder, ...children) {
    const inner = holder.contains(document.activeElement) ? [...holder.querySelectorAll("[tabindex], a, button")].indexOf(document.activeElement) : -1;
    const old = holder.querySelector(".wide, pre"), left = old ? old.scrollLeft : 0, top = old ? old.scrollTop : 0;
    holder.replaceChildren(...children);
    const fresh = holder.querySelector(".wide, pre");
    if (fresh) { fresh.scrollLeft = left; fresh.scrollTop = top; }
    if (inner >= 0) { const again = holder.querySelectorAll("[tabindex], a, button")[inner]; if (again) again.focus({ preventScroll: true }); }
  }

  async function ask(path, options) {
    const answer = await fetch(path, { ...options, headers: { "x-ocd-page": word }, cache: "no-store" });
    if (answer.status === 403) throw new Error("This page is no longer allowed: run `occtl dashboard` again.");
    const text = await answer.text();
    if (!answer.ok) {
      let said = null;
      try { said = JSON.parse(text).error; } catch { /* no words of ours */ }
      throw new Error(said ? [said.what, said.why, said.next].filter(Boolean).join(". ") : `The daemon answered ${answer.status}.`);
    }
    return text;
  }
  const json = async (path) => JSON.parse(await ask(path));

  // --------------------------------------------------------------------------------------------------- views
  function show(name) {
    const known = VIEWS.some(([id]) => id === name) ? name : "overview";
    const moved = known !== state.view;
    state.view = known;
    for (const [id, title] of VIEWS) {
      $(id).hidden = id !== known;
      const link = document.querySelector(`nav a[href="#${id}"]`);
      if (id === known) { link.setAttribute("aria-current", "page"); document.title = `${title} · ocd`; } else link.removeAttribute("aria-current");
    }
    if (moved) window.scrollTo(0, 0);
    render(true);
  }
  function render(entered) {
    const draws = { overview, requests, sessions, usage: () => entered && usage(), routes: () => entered && routes(), logs: () => (entered ? logs(true) : logs(false)), doctor: () => entered && doctor() };
    draws[state.view]();
  }

  function overview() {
    const status = state.status;
    if (!status) return;
    const problems = status.problems.map((one) => el("div", { class: "card warn" }, el("p", {}, el("strong", {}, one.what)), one.why ? el("p", {}, one.why) : null, one.next ? el("p", { class: "soft" }, `Next: ${one.next}`) : null));
    if (status.trace_until) problems.push(el("div", { class: "card warn" }, el("p", {}, el("strong", {}, `Whole exchanges are kept until ${clock(status.trace_until)}.`)), el("p", { class: "soft" }, "Next: `occtl trace off` ends that, `occtl trace show` lists them")));
    draw($("problems"), ...problems);
    draw($("proxies"), ...Object.entries(status.proxies).map(proxy));
    const cards = [...status.limits.flatMap(limit), ...(status.budgets || []).map(budget)];
    draw($("limits"), ...(cards.length ? cards : [el("p", { class: "soft" }, "Nothing is known of a plan's limits yet, and no budget is set.")]));
    errors();
  }
  function proxy([name, one]) {
    const well = ["ready", "idle"].includes(one.state), off = ["stopped", "disabled"].includes(one.state);
    const members = one.members.map((member) => el("li", {}, `generation ${member.generation}, ${member.role} for ${span(now() - member.since)}, pid ${member.pid ?? "-"}, ${bytes(member.memory)}` + (member.in_flight ? `, ${member.in_flight} requests now` : "")));
    const history = state.events.filter((event) => event.proxy === name).slice(-5).reverse();
    const text = [one.reason, one.rejected ? `A newer configuration was refused: ${one.rejected}` : "", one.next_step ? `Next: ${one.next_step}` : ""].filter(Boolean);
    return el("div", { class: "card" + (well || off ? "" : " bad") },
      el("h4", {}, `${name}: `, el("span", { class: well ? "good" : off ? "soft" : "bad" }, one.state)),
      el("p", {}, `port ${one.port}, since ${span(now() - one.since)}, ${one.restarts} restarts, ${bytes(one.memory)}, spare ${one.spare}`),
      ...text.map((line) => el("p", { class: "warn" }, line)),
      members.length ? el("ul", {}, ...members) : null,
      one.last_fallback ? el("p", { class: "warn" }, `Fell back ${one.fallbacks} times: ${one.last_fallback}`) : null,
      history.length ? el("details", {}, el("summary", {}, "History"), el("ul", {}, ...history.map((event) => el("li", {}, `${clock(event.time)} ${event.kind} ${event.text}`)))) : null);
  }
  function limit(login) {
    return login.windows.map((window) => {
      const meter = el("meter", { min: 0, max: 1, low: 0.75, high: 0.9, optimum: 0, value: Math.min(1, window.used), "aria-label": `${window.name} window of the plan` });
      const pace = window.per_hour === null || window.per_hour === undefined ? "" : `${(window.per_hour * 100).toFixed(1)} % an hour`;
      const full = window.full_at ? `full at ${moment(window.full_at)} at this pace` : pace ? "not full before it begins again" : "";
      return el("div", { class: "card" + (login.spilling ? " warn" : "") },
        el("h4", {}, `Plan ${(login.accounts || []).join(", ") || login.login.slice(0, 6)}, ${window.name}${window.name === login.binding ? " (counts now)" : ""}`), meter,
        el("p", {}, `${percent(window.used)} used${window.reset ? `, begins again ${moment(window.reset)}` : ""}`),
        pace ? el("p", { class: "soft" }, `${pace}, ${full}`) : null,
        login.spilling ? el("p", { class: "warn" }, "Its requests go to AWS until then.") : null);
    });
  }
  function budget(one) {
    const words = { warn: "nothing is stopped", refuse: "requests for AWS are refused", plan: "requests for AWS go to the plan" };
    return el("div", { class: "card" + (one.near ? " warn" : "") },
      el("h4", {}, `AWS ${one.period === "day" ? "today" : "this month"}`),
      el("meter", { min: 0, max: one.limit, low: one.limit * 0.8, high: one.limit, optimum: 0, value: Math.min(one.spent, one.limit), "aria-label": `budget of the ${one.period}` }),
      el("p", {}, `${money(one.spent)} of ${money(one.limit)} (estimated), begins again ${moment(one.resets)}`),
      one.used_up ? el("p", { class: "warn" }, `Used up: ${words[one.action] || one.action}.`) : null,
      one.unpriced ? el("p", { class: "soft" }, `${count(one.unpriced)} requests without a known price are not in it.`) : null);
  }
  const STEPS = { cut: "The stream ended early; Claude Code asks again", "client-gone": "The client went away; nothing to do", refused: "`occtl events` says what was refused", "bad-request": "Look at the request in the log of that proxy", "upstream-error": "It passes; `/model` changes to another slot meanwhile", budget: "Raise [budget] in ocd.toml, or choose another model" };
  function errors() {
    const kinds = new Map();
    for (const one of state.requests) {
      if (!one.trouble || one.hop) continue;
      const known = kinds.get(one.trouble) || { kind: one.trouble, count: 0, last: 0, slots: new Set() };
      known.count += 1; known.last = Math.max(known.last, one.time); known.slots.add(one.slot || one.model || "-");
      kinds.set(one.trouble, known);
    }
    const next = (kind) => { for (const one of Object.values(state.status.proxies)) for (const trouble of one.troubles) if (trouble.kind === kind) return `${trouble.what}. ${trouble.next}`; return STEPS[kind] || "It has passed"; };
    const rows = [...kinds.values()].sort((a, b) => b.last - a.last);
    draw($("errors"), rows.length ? table([["kind", (row) => row.kind], ["slot or model", (row) => [...row.slots].join(", ")], ["how often", (row) => count(row.count), "n"], ["last", (row) => clock(row.last)], ["what to do", (row) => next(row.kind)]], rows, `Of the latest ${state.requests.length} requests`) : el("p", { class: "soft" }, "None among the latest requests."));
  }

  function filters(name) { return Object.fromEntries(new FormData(document.querySelector(`[data-filters=${name}]`))); }
  function requests() {
    const chosen = filters("requests"), text = (chosen.text || "").toLowerCase();
    const select = document.querySelector("[data-filters=requests] [name=slot]");
    for (const slot of new Set(state.requests.map((one) => one.slot).filter(Boolean))) if (![...select.options].some((option) => option.value === slot)) select.append(el("option", { value: slot }, slot));
    const rows = state.requests.filter((one) => (chosen.hops || !one.hop) && (!chosen.slot || one.slot === chosen.slot) && (!chosen.wrong || one.trouble || one.fallback) && (!text || JSON.stringify(one).toLowerCase().includes(text))).slice(-200).reverse();
    if (state.status) {
      const flying = Object.entries(state.status.proxies).map(([name, one]) => `${name} ${one.members.reduce((sum, member) => sum + (member.in_flight || 0), 0)}`);
      $("in-flight").textContent = `Being answered now: ${flying.join(", ")}.`;
    }
    const share = (one) => { const all = one.input_tokens + one.cache_read_tokens + one.cache_write_tokens; return all ? percent(one.cache_read_tokens / all) : "-"; };
    draw($("request-list"), rows.length ? table([
      ["time", (one) => clock(one.time)], ["slot", (one) => one.slot || "-"], ["model", (one) => one.answered_by || one.model], ["upstream", (one) => one.upstream || "-"],
      ["status", (one) => el("span", { class: one.status < 400 ? "good" : "bad" }, String(one.status))],
      ["first", (one) => (one.first === null ? "-" : one.first.toFixed(2) + " s"), "n"], ["in all", (one) => one.seconds.toFixed(1) + " s", "n"],
      ["in", (one) => count(one.input_tokens), "n"], ["out", (one) => count(one.output_tokens), "n"], ["from cache", share, "n"], ["cost", (one) => money(one.cost), "n"],
      ["remarks", (one) => [one.trouble, one.fallback].filter(Boolean).join("; ")],
    ], rows, `${rows.length} of the latest ${state.requests.length} requests`) : el("p", { class: "soft" }, "No request yet that fits."));
  }

  function sessions() {
    const status = state.status;
    if (!status) return;
    if (!state.agents) { state.agents = new Map(); agents(); }
    const items = status.sessions.map((one) => {
      // One process may hold several conversations (/clear, /resume); its requests say which.
      const ids = new Set([one.id, ...state.requests.filter((request) => request.session === one.pid).map((request) => request.session_id)].filter(Boolean));
      const mine = [...state.agents.values()].filter((agent) => ids.has(agent.session) && agent.agent);
      const parents = new Map(state.requests.filter((request) => request.agent_id).map((request) => [request.agent_id, request.parent_agent_id]));
      const inside = (parent) => mine.filter((agent) => (mine.some((other) => other.agent === parents.get(agent.agent)) ? parents.get(agent.agent) : "") === parent);
      const branch = (parent) => { const found = inside(parent); return found.length ? el("ul", {}, ...found.map((agent) => el("li", {}, `subagent ${agent.agent}: ${count(agent.requests)} requests, ${short(agent.input_tokens + agent.output_tokens)} tokens, ${money(agent.cost)}`, branch(agent.agent)))) : null; };
      return el("li", {}, el("strong", {}, one.project || one.cwd), one.branch ? ` on ${one.branch}` : "", one.kind ? ` (${one.kind})` : "",
        el("div", { class: "soft" }, `pid ${one.pid}, since ${span(now() - one.since)}, ${count(one.requests)} requests, ${short(one.tokens)} tokens` + (one.last_slot ? `, last ${one.last_slot} → ${one.last_upstream}` : "") + (one.cwd !== (one.project || one.cwd) ? `, in ${one.cwd}` : "")), branch(""));
    });
    draw($("session-tree"), items.length ? el("ul", { class: "tree" }, ...items) : el("p", { class: "soft" }, "No session is at work."));
  }
  async function agents() {
    try {
      const said = await json(`/api/usage?by=session,agent&since=${day(1)}`);
      state.agents = new Map(said.rows.map((row) => [`${row.session} ${row.agent}`, row]));
      if (state.view === "sessions") sessions();
    } catch { /* the tree goes without */ }
  }

  function day(back) { const at = new Date(); at.setDate(at.getDate() - back); return `${at.getFullYear()}-${String(at.getMonth() + 1).padStart(2, "0")}-${String(at.getDate()).padStart(2, "0")}`; }
  async function usage() {
    const { since, by, figure } = filters("usage"), keys = by.split(","), fine = Number(since) < 2;
    const time = fine ? "hour" : "day";
    Plots.resized($("usage-plot"));
    try {
      const { rows } = await json(`/api/usage?by=${[time, ...keys].join(",")}&since=${day(Number(since))}`);
      const value = (row) => (figure === "tokens" ? row.input_tokens + row.output_tokens : row[figure]);
      const format = figure === "cost" ? money : short;
      const at = (row) => (fine ? row.hour : new Date(`${row.day}T00:00`).getTime() / 1000);
      const name = (row) => keys.map((key) => row[key] || "not known").join(" · ");
      const title = { cost: "Cost (estimated)", tokens: "Tokens, input and output", requests: "Requests" }[figure] + (fine ? " an hour" : " a day");
      Plots.bars($("usage-plot"), rows.filter((row) => at(row) > 0).map((row) => ({ at: at(row), name: name(row), value: value(row) })), fine ? 3600 : 86400, format, title);
      const sums = new Map();
      const figures = ["requests", "failed", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "cost", "unpriced"];
      const add = (into, row) => { for (const key of figures) into[key] = (into[key] || 0) + row[key]; return into; };
      for (const row of rows) sums.set(name(row), add(sums.get(name(row)) || { name: name(row) }, row));
      const list = [...sums.values()].sort((a, b) => b.cost - a.cost || b.requests - a.requests);
      if (list.length > 1) list.push(list.reduce(add, { name: "total" }));
      const share = (row) => { const all = row.input_tokens + row.cache_read_tokens + row.cache_write_tokens; return all ? percent(row.cache_read_tokens / all) : "-"; };
      draw($("usage-table"), list.length ? table([
        [document.querySelector("[data-filters=usage] [name=by]").selectedOptions[0].text, (row) => row.name], ["requests", (row) => count(row.requests), "n"], ["failed", (row) => count(row.failed), "n"],
        ["input", (row) => count(row.input_tokens), "n"], ["output", (row) => count(row.output_tokens), "n"], ["cache read", (row) => count(row.cache_read_tokens), "n"], ["cache written", (row) => count(row.cache_write_tokens), "n"],
        ["cache share", share, "n"], ["cost (est.)", (row) => money(row.cost) + (row.unpriced ? "+" : ""), "n"],
      ], list, `Since ${day(Number(since))}`) : el("p", { class: "soft" }, "No request."));
    } catch (error) { draw($("usage-table"), el("p", { class: "bad" }, error.message)); }
  }

  async function routes() {
    try {
      const { models } = await json("/api/routes");
      Plots.routes($("route-picture"), models);
      $("route-picture").className = "wide"; $("route-picture").tabIndex = 0; $("route-picture").setAttribute("role", "region"); $("route-picture").setAttribute("aria-label", "Picture of the routes");
      draw($("route-table"), table([["slot", (row) => row.slot || "-"], ["asked for", (row) => row.name], ["way", (row) => row.way || "-"], ["route", (row) => row.route || "-"], ["upstream", (row) => row.upstream || "-"], ["credential", (row) => (row.broken ? el("span", { class: "bad" }, row.broken) : row.credential)], ["instead", (row) => row.fallbacks.map((one) => `${one.to.join(", ")} ${one.when}`).join("; ")]], models, "Each model's route"));
    } catch (error) { draw($("route-table"), el("p", { class: "bad" }, error.message)); }
  }

  let read = [];
  async function logs(fetchThem) {
    const { source, text } = filters("logs");
    if (source !== "events" && fetchThem) {
      try { read = lines(await ask(`/api/logs/${source}?lines=500`)); } catch (error) { read = [{ text: error.message }]; }
    } else if (source !== "events" && !fetchThem) return;
    const rows = source === "events" ? state.events : read;
    const told = rows.map((one) => {
      const at = typeof one.time === "number" ? clock(one.time) : one.time || one.timestamp || "";
      if (source === "events") return `${at} ${one.kind} ${one.proxy || ""} ${one.text || ""}`;
      if (source === "daemon") { const { time: _t, timestamp: _s, ...rest } = one; return `${at} ${JSON.stringify(rest)}`; }
      return `${at} ${one.stream || ""} ${one.text}`;
    }).filter((line) => !text || line.toLowerCase().includes(text.toLowerCase())).slice(-500).reverse();
    draw($("log-list"), told.length ? el("pre", { class: "lines", tabIndex: 0, role: "region", "aria-label": `${source}, the latest first` }, told.join("\n")) : el("p", { class: "soft" }, "Nothing that fits."));
  }

  async function doctor() {
    $("doctor-again").disabled = true;
    draw($("doctor-rows"), el("p", { class: "soft", role: "status" }, "Looking…"));
    try {
      const { fit, rows } = await json("/api/doctor");
      const styles = { error: "bad", warning: "warn", note: "soft", ok: "good" };
      draw($("doctor-rows"), el("p", {}, fit ? "Fit to run." : "Not fit to run."), table([["level", (row) => el("span", { class: styles[row.level] || "" }, row.level)], ["what", (row) => row.what], ["why", (row) => row.why || ""], ["what to do", (row) => (row.level === "ok" ? "" : row.fix || "")]], rows, "Findings, the worst first"));
    } catch (error) { draw($("doctor-rows"), el("p", { class: "bad" }, error.message)); }
    $("doctor-again").disabled = false;
  }

  // ------------------------------------------------------------------------------------------------- actions
  const QUESTIONS = { reload: () => "Read the configuration anew? What does not pass changes nothing.", restart: (proxy) => `Start ${proxy} anew? Requests under way are finished by the old process.`, "spill-on": () => "Send requests to AWS near the plan's limit? It costs money there while it lasts.", "spill-off": () => "Send requests to Anthropic again, also at the plan's limit?" };
  let chosen = null, origin = null;
  function confirm(button) {
    chosen = { verb: button.dataset.verb, proxy: button.dataset.proxy || "" }; origin = button;
    $("confirm-title").textContent = button.textContent;
    $("confirm-text").textContent = QUESTIONS[chosen.verb](chosen.proxy);
    $("confirm").showModal();
    $("confirm-no").focus();
  }
  async function act() {
    $("confirm").close();
    const order = chosen;
    say("Working…", 0);
    try {
      const said = JSON.parse(await ask("/api/act", { method: "POST", body: JSON.stringify(order) }));
      say(said.ok === false ? `Not done: ${said.reason || "see the events"}` : "Done.");
    } catch (error) { say(error.message); }
  }
  let silence = 0;
  function say(text, seconds = 8) { clearTimeout(silence); $("outcome").textContent = text; if (seconds) silence = setTimeout(() => { $("outcome").textContent = ""; }, seconds * 1000); }

  // ---------------------------------------------------------------------------------------------------- live
  function connection(text, lost) { const line = $("connection"); if (line.textContent !== text) line.textContent = text; line.className = lost ? "lost" : ""; }
  let due = 0;
  function soon() { if (!due) due = setTimeout(() => { due = 0; render(false); }, 150); }
  function told(name, data) {
    const said = JSON.parse(data);
    if (name === "gone") { connection(said.why, true); return; }
    if (name === "status") {
      state.status = said; connection("live", false);
      const all = Object.values(said.proxies);
      $("headline").textContent = `${said.version}, running for ${span(now() - said.since)}, LiteLLM ${said.litellm || "?"}, ${all.filter((one) => ["ready", "idle"].includes(one.state)).length} of ${all.length} proxies well, ${said.sessions.length} sessions`;
    } else if (name === "request") { state.requests.push(said); state.requests.splice(0, Math.max(0, state.requests.length - KEPT)); if (said.agent_id && state.view === "sessions") laterAgents(); }
    else if (name === "event") { state.events.push(said); state.events.splice(0, Math.max(0, state.events.length - KEPT)); }
    soon();
  }
  let agentsDue = 0;
  function laterAgents() { if (!agentsDue) agentsDue = setTimeout(() => { agentsDue = 0; agents(); }, 3000); }
  async function live() {
    let tries = 0;
    for (;;) {
      try {
        const [requests, events] = await Promise.all([ask(`/api/requests?lines=${KEPT}`), ask(`/api/events?lines=${KEPT}`)]);
        state.requests = lines(requests); state.events = lines(events);
        const answer = await fetch("/api/live", { headers: { "x-ocd-page": word }, cache: "no-store" });
        if (!answer.ok) throw new Error(answer.status === 403 ? "This page is no longer allowed: run `occtl dashboard` again." : `The daemon answered ${answer.status}.`);
        connection("live", false); state.live = true; tries = 0; render(true);
        const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
        let rest = "";
        for (;;) {
          const { done, value } = await reader.read();
          if (done) break;
          rest += value;
          for (let end = rest.indexOf("\n\n"); end >= 0; end = rest.indexOf("\n\n")) {
            const block = rest.slice(0, end); rest = rest.slice(end + 2);
            const name = /^event: (.*)$/m.exec(block), data = /^data: (.*)$/m.exec(block);
            if (name && data) told(name[1], data[1]);
          }
        }
        throw new Error("The daemon ended the connection.");
      } catch (error) {
        state.live = false; tries += 1;
        const gone = tries >= 5 || /no longer allowed/.test(error.message);
        connection(gone ? (/no longer allowed/.test(error.message) ? error.message : "The daemon closed this page's port: run `occtl dashboard` again.") : "Connection lost, trying again…", true);
        if (gone) return;
        await new Promise((resolve) => setTimeout(resolve, 500 * 2 ** tries));
      }
    }
  }

  // --------------------------------------------------------------------------------------------------- begin
  $("views").append(...VIEWS.map(([id, title]) => el("li", {}, el("a", { href: `#${id}` }, title))));
  window.addEventListener("hashchange", () => show(location.hash.slice(1)));
  for (const button of document.querySelectorAll("[data-verb]")) button.addEventListener("click", () => confirm(button));
  $("confirm-no").addEventListener("click", () => $("confirm").close());
  $("confirm-yes").addEventListener("click", act);
  $("confirm").addEventListener("close", () => { if (origin) origin.focus(); });
  $("doctor-again").addEventListener("click", doctor);
  for (const form of document.querySelectorAll("[data-filters]")) {
    form.addEventListener("submit", (event) => { event.preventDefault(); render(true); });
    form.addEventListener("input", () => { if (form.dataset.filters === "requests") requests(); else render(true); });
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || $("confirm").open || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const view = VIEWS[Number(event.key) - 1];
    if (view) { location.hash = view[0]; document.querySelector(`nav a[href="#${view[0]}"]`).focus(); }
    if (event.key === "/") { const field = document.querySelector(`#${state.view} input[type=search]`); if (field) { event.preventDefault(); field.focus(); } }
  });
  window.addEventListener("resize", () => Plots.resized($("usage-plot")));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (state.view === "usage") usage(); });
  setInterval(() => { if (state.live && !document.hidden && state.view === "overview") soon(); }, 10000);
  show(location.hash.slice(1) || "overview");
  live();
})();
