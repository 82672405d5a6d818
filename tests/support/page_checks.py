"""Expressions of JavaScript that measure a page in a browser: overflow, overlapping texts and contrast."""

OPEN_ALL = "document.querySelectorAll('details').forEach((each) => { each.open = true; })"
# whether nothing makes the page scroll sideways
FITS = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
# The texts that overlap another text by more than 2 pixels in both directions; what a box cuts off does not count.
OVERLAPS = """(() => {
  const lines = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (!node.data.trim() || node.parentElement.closest("style, title, .skip")) continue;
    if (!node.parentElement.checkVisibility()) continue;
    const box = node.parentElement.closest(".scroll"), range = document.createRange();
    const limit = box ? box.getBoundingClientRect() : { left: -1e9, right: 1e9, top: -1e9, bottom: 1e9 };
    range.selectNodeContents(node);
    for (const rect of range.getClientRects()) {
      const left = Math.max(rect.left, limit.left), right = Math.min(rect.right, limit.right);
      if (right - left > 2) lines.push({ left, right, top: rect.top, bottom: rect.bottom, node });
    }
  }
  lines.sort((a, b) => a.top - b.top);
  const found = [];
  lines.forEach((a, i) => {
    for (let j = i + 1; j < lines.length && lines[j].top < a.bottom - 2; j++) {
      const b = lines[j];
      const inLine = a.node.parentElement.closest("span") && a.node.parentElement === b.node.parentElement;
      if (a.node !== b.node && !inLine && Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2 &&
          Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > Math.min(a.bottom - a.top, b.bottom - b.top) / 3)
        found.push(a.node.data.trim().slice(0, 40) + " | " + b.node.data.trim().slice(0, 40));
    }
  });
  return found;
})()"""
# The lowest contrast ratio of a text, in HTML or SVG, against the ground behind it (WCAG 2.2, 1.4.3), and that text
CONTRAST = """(() => {
  const parts = (color) => (color.match(/[\\d.]+/g) || [0, 0, 0]).map(Number);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    if (!element) return [255, 255, 255];
    const [r, g, b, a = 1] = parts(getComputedStyle(element).backgroundColor);
    if (a === 1) return [r, g, b];
    const below = ground(element.parentElement);
    return [r, g, b].map((c, i) => a * c + (1 - a) * below[i]);
  };
  let worst = [99, ""];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || element.closest("style, title, .skip") || !element.checkVisibility()) continue;
    const style = getComputedStyle(element), inside = element instanceof SVGElement;
    const a = light(parts(inside ? style.fill : style.color).slice(0, 3)), b = light(ground(element));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < worst[0]) worst = [ratio, element.textContent.trim().slice(0, 60)];
  }
  return worst;
})()"""
