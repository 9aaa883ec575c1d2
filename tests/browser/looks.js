// What is wrong with how a view looks: text that is hard to read (WCAG AA: 4.5 to 1), controls without a name, headings
// that leave a level out.
(() => {
  const parse = (color) => color.match(/[\d.]+/g).map(Number);
  const linear = (v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = parse(getComputedStyle(node).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    const text = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!text || !node.checkVisibility() || node.closest("svg") || node.disabled) continue;
    const pair = [light(parse(getComputedStyle(node).color)), light(behind(node))];
    const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (ratio < 4.5) found.push(`${ratio.toFixed(1)}: ${node.textContent.slice(0, 40)}`);
  }
  for (const node of document.querySelectorAll("button, input, select, a"))
    if (node.checkVisibility() && !(node.textContent.trim() || node.ariaLabel || node.labels?.length))
      found.push("no name: " + node.outerHTML.slice(0, 80));
  let level = 1;
  for (const node of document.querySelectorAll("h1, h2, h3, h4")) {
    if (!node.checkVisibility()) continue;
    if (Number(node.tagName[1]) > level + 1) found.push("a level left out: " + node.textContent.slice(0, 40));
    level = Number(node.tagName[1]);
  }
  return found.slice(0, 10);
})()
