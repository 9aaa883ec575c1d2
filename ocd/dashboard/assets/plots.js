// Bars over time (uPlot) and the picture of the routes (SVG). Both have a table beside them that says the same.
"use strict";
const Plots = (() => {
  const COLORS = ["#3b6fd4", "#c2622d", "#2f8f5b", "#8a55c8", "#a67c00", "#c0406f", "#3a8fa3", "#6b7280"];
  const MOST = COLORS.length - 1;
  let plot = null;

  function style(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  // rows: [{at: seconds, name, value}]; stacked bars, the smallest names together as "others".
  function bars(holder, rows, step, format, title) {
    if (plot) { plot.destroy(); plot = null; }
    holder.replaceChildren();
    if (!rows.length) return;
    const sums = new Map();
    for (const row of rows) sums.set(row.name, (sums.get(row.name) || 0) + row.value);
    const names = [...sums.keys()].sort((a, b) => sums.get(b) - sums.get(a));
    const shown = names.length > MOST + 1 ? [...names.slice(0, MOST), "others"] : names;
    const times = [...new Set(rows.map((row) => row.at))].sort((a, b) => a - b);
    const place = new Map(times.map((at, index) => [at, index]));
    const values = shown.map(() => new Array(times.length).fill(0));
    for (const row of rows) {
      let index = shown.indexOf(row.name);
      if (index < 0) index = shown.length - 1;
      values[index][place.get(row.at)] += row.value;
    }
    // Each is drawn down to zero, behind the one below it.
    const stacked = values.map(() => new Array(times.length).fill(0));
    for (let t = 0; t < times.length; t++) {
      let sum = 0;
      for (let s = values.length - 1; s >= 0; s--) { sum += values[s][t]; stacked[s][t] = sum; }
    }
    const soft = style("--soft"), line = style("--line");
    const axis = { stroke: soft, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
    const series = shown.map((name, index) => ({
      label: name || "not known",
      fill: COLORS[index], stroke: COLORS[index], width: 0, points: { show: false },
      paths: uPlot.paths.bars({ size: [0.8, 60] }),
      value: (_plot, _v, _s, at) => (at === null || at === undefined ? "" : format(values[index][at])),
    }));
    // A week, or a few hours, at least: one bar alone is not a wide one. All bars are in it, whatever uPlot would choose.
    const last = times[times.length - 1], first = Math.min(times[0], last - 6 * step);
    const options = {
      width: Math.max(280, holder.clientWidth), height: 260, title,
      scales: { x: { time: true, range: () => [first - step / 2, last + step / 2] }, y: { range: (_u, _l, high) => [0, high > 0 ? high * 1.05 : 1] } },
      axes: [axis, { ...axis, size: 70, values: (_u, ticks) => ticks.map(format) }],
      series: [{ label: "time" }, ...series],
      cursor: { drag: { x: false, y: false } },
    };
    plot = new uPlot(options, [times, ...stacked], holder);
    const canvas = holder.querySelector("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${title}; the table below has the figures`);
  }

  function resized(holder) {
    // What is not shown has no width.
    if (plot && holder.clientWidth) plot.setSize({ width: Math.max(280, holder.clientWidth), height: 260 });
  }

  function node(name, attributes, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  const cut = (text, most) => (text.length > most ? text.slice(0, most - 1) + "…" : text);

  // models: the rows of `occtl models --json`
  function routes(holder, models) {
    const width = 900, tall = 46, gap = 12, columns = [10, 290, 620], size = [150, 230, 270];
    const slots = [], upstreams = [];
    for (const row of models) {
      for (const slot of row.slot.split(", ").filter(Boolean)) if (!slots.includes(slot)) slots.push(slot);
      const up = row.broken ? "nowhere" : row.upstream || "?";
      if (!upstreams.some((one) => one.name === up && one.credential === row.credential)) upstreams.push({ name: up, credential: row.credential });
    }
    const height = Math.max(slots.length, models.length, upstreams.length) * (tall + gap) + gap;
    const y = (index, count) => (height - count * (tall + gap) + gap) / 2 + index * (tall + gap);
    const svg = node("svg", { viewBox: `0 0 ${width} ${height}`, class: "routes", role: "img", "aria-label": "Which slot goes where; the table below says the same" });
    const link = (x1, y1, x2, y2, kind) => svg.append(node("path", { d: `M${x1} ${y1}C${(x1 + x2) / 2} ${y1} ${(x1 + x2) / 2} ${y2} ${x2} ${y2}`, class: kind }));
    const box = (column, top, title, below) => {
      svg.append(node("rect", { x: columns[column], y: top, width: size[column], height: tall, rx: 6 }));
      svg.append(node("text", { x: columns[column] + 10, y: top + 19 }, cut(title, size[column] / 8)));
      svg.append(node("text", { x: columns[column] + 10, y: top + 36, class: "soft" }, cut(below, size[column] / 6.2)));
    };
    models.forEach((row, index) => {
      const top = y(index, models.length), middle = top + tall / 2;
      for (const slot of row.slot.split(", ").filter(Boolean)) link(columns[0] + size[0], y(slots.indexOf(slot), slots.length) + tall / 2, columns[1], middle, "");
      const up = row.broken ? "nowhere" : row.upstream || "?";
      const at = upstreams.findIndex((one) => one.name === up && one.credential === row.credential);
      const kind = row.broken ? "broken" : /bedrock|AWS/i.test(row.upstream + row.credential) ? "aws" : "";
      link(columns[1] + size[1], middle, columns[2], y(at, upstreams.length) + tall / 2, kind);
    });
    slots.forEach((slot, index) => box(0, y(index, slots.length), slot, "slot"));
    models.forEach((row, index) => box(1, y(index, models.length), row.name, row.way ? `way: ${row.way}` : ""));
    upstreams.forEach((one, index) => box(2, y(index, upstreams.length), one.name, one.credential || ""));
    holder.replaceChildren(svg);
  }

  return { bars, resized, routes };
})();
