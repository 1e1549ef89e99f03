// What a page must have so that everybody can use it; returns the faults as texts. The numbers are those of WCAG 2.2 AA
// (https://www.w3.org/TR/WCAG22/): contrast 1.4.3, names 4.1.2, headings and landmarks 1.3.1.
() => {
  const faults = [];
  const visible = (element) => element.checkVisibility({ opacityProperty: true, visibilityProperty: true }) && !element.closest(".visually-hidden, [aria-hidden=true], .skip");
  const told = (element) => `<${element.tagName.toLowerCase()}${element.id ? ` id=${element.id}` : ""}> ${element.textContent.trim().slice(0, 40)}`;

  const name = (element) => (element.getAttribute("aria-label")
    ?? [element.getAttribute("aria-labelledby") ?? ""].map((id) => document.getElementById(id)?.textContent ?? "").join("")) || [...(element.labels ?? [])].map((label) => label.textContent).join("") || (/^(INPUT|SELECT|TEXTAREA)$/.test(element.tagName) ? "" : element.textContent);
  for (const element of document.querySelectorAll("input, select, textarea, button, a[href], summary, dialog, progress, [role=region]")) {
    if (!name(element).trim() && !element.querySelector("img[alt]:not([alt=''])")) faults.push(`no name: ${told(element)}`);
  }
  for (const image of document.querySelectorAll("img")) if (!image.hasAttribute("alt")) faults.push(`no alternative text: ${image.src}`);
  for (const image of document.querySelectorAll("svg[role=img]")) if (!image.getAttribute("aria-label")) faults.push("a picture without a name");
  for (const head of document.querySelectorAll("th")) if (!head.hasAttribute("scope")) faults.push(`no scope: ${told(head)}`);
  for (const element of document.querySelectorAll("[aria-describedby], [aria-labelledby]")) {
    for (const id of `${element.getAttribute("aria-describedby") ?? ""} ${element.getAttribute("aria-labelledby") ?? ""}`.split(/\s+/).filter(Boolean)) {
      if (!document.getElementById(id)) faults.push(`leads nowhere: ${id}`);
    }
  }
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  for (const id of new Set(ids.filter((id, index) => ids.indexOf(id) !== index))) faults.push(`an id twice: ${id}`);
  for (const landmark of ["header", "nav[aria-label]", "main", "[aria-live]"]) if (!document.querySelector(landmark)) faults.push(`no ${landmark}`);
  if (!document.documentElement.lang) faults.push("no language");
  if (document.querySelectorAll("h1").length !== 1) faults.push("not one h1");
  const levels = [...document.querySelectorAll("h1, h2, h3, h4")].map((heading) => Number(heading.tagName[1]));
  levels.forEach((level, index) => { if (index && level > levels[index - 1] + 1) faults.push(`h${level} after h${levels[index - 1]}`); });
  for (const element of document.querySelectorAll("[tabindex]")) if (element.tabIndex > 0) faults.push(`a tab order of its own: ${told(element)}`);

  const colour = (text) => { const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number); return [r, g, b, a]; };
  const over = ([r, g, b, a], [lr, lg, lb]) => [r * a + lr * (1 - a), g * a + lg * (1 - a), b * a + lb * (1 - a), 1];
  const ground = (element) => {
    if (!element) return [255, 255, 255, 1];
    const own = colour(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own : over(own, ground(element.parentElement));
  };
  const light = (rgb) => rgb.slice(0, 3).map((part) => part / 255).map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = texts.nextNode(); node; node = texts.nextNode()) {
    const element = node.parentElement;
    if (!node.textContent.trim() || !visible(element) || element.closest(":disabled, option, datalist, noscript")) continue;
    const style = getComputedStyle(element);
    const behind = ground(element);
    const [high, low] = [light(over(colour(element.closest("svg") ? style.fill : style.color), behind)), light(behind)].sort((a, b) => b - a);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && Number(style.fontWeight) >= 700);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < (large ? 3 : 4.5)) faults.push(`contrast ${contrast.toFixed(2)}: ${told(element)}`);
  }
  return faults;
}
