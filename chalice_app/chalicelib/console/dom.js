// Makes elements. Children that are no elements become text, never HTML: file names and messages are strangers' words.

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element with attributes and children. An attribute `on…` is a listener; false, null and undefined leave one out.
 * @param {string} tag
 * @param {Record<string, any>} [attributes]
 * @param {...any} children texts, numbers, elements, and lists of them; null and false are skipped
 */
export function h(tag, attributes = {}, ...children) {
  return furnish(document.createElement(tag), attributes, children);
}

/** The same for an element of an SVG image. */
export function svg(tag, attributes = {}, ...children) {
  return furnish(document.createElementNS(SVG, tag), attributes, children);
}

function furnish(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) => (child instanceof Node ? child : document.createTextNode(String(child)))));
  return element;
}

/** Put new children into an element, unless they say what is there already: a reader's place and focus stay. */
export function show(element, ...children) {
  const wanted = h("div", {}, ...children);
  if (element.innerHTML === wanted.innerHTML) return;
  const focused = document.activeElement?.closest?.("[data-focus]")?.dataset.focus;
  const open = new Set([...element.querySelectorAll("details[open]")].map((details) => details.dataset.name));
  element.replaceChildren(...wanted.childNodes);
  for (const details of element.querySelectorAll("details")) details.open ||= open.has(details.dataset.name);
  if (focused) element.querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus();
}

/** Say something to a screen reader. */
export function announce(text) {
  document.getElementById("announcer").textContent = text;
}

/** A text in which addresses are links. */
export function linkified(text) {
  return text.split(/(https?:\/\/[^\s<>"')\]]+)/).map((part, index) =>
    index % 2 ? h("a", { href: part, target: "_blank", rel: "noopener noreferrer" }, part) : part);
}

/** What went wrong, why, and what to do: the API's own error, or a sentence of the browser's. */
export function problem(error, ...actions) {
  const details = [error.code, error.requestId && `request ${error.requestId}`].filter(Boolean).join(", ");
  return h("div", { class: "problem", role: "alert" },
    h("p", { class: "what" }, error.message),
    error.hint && h("p", {}, error.hint),
    details && h("p", { class: "small" }, details),
    actions.length > 0 && h("p", { class: "actions" }, ...actions));
}

/** A table; `rows` hold cells, which are texts, elements or `{ value, class }`. */
export function table(caption, heads, rows) {
  const cell = (tag, given, more) => {
    const full = given !== null && typeof given === "object" && "value" in given ? given : { value: given };
    return h(tag, { class: full.class, ...more }, full.value);
  };
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {},
      h("caption", { class: "visually-hidden" }, caption),
      h("thead", {}, h("tr", {}, heads.map((head) => cell("th", head, { scope: "col" })))),
      h("tbody", {}, rows.map((row) => h("tr", { class: row.class }, (row.cells ?? row).map((given) => cell("td", given)))))));
}

/** Facts in pairs; those without a value are left out. */
export function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.filter(([, value]) => value !== null && value !== undefined && value !== false)
    .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

/** Ask a question in a dialog; resolves to whether it was answered with `yes`. */
export function confirmed(title, text, yes) {
  return new Promise((resolve) => {
    const dialog = h("dialog", { "aria-labelledby": "question", onclose: () => { dialog.remove(); resolve(dialog.returnValue === "yes"); } },
      h("h2", { id: "question" }, title), h("p", {}, text),
      h("div", { class: "buttons" },
        h("button", { type: "button", onclick: () => dialog.close("no") }, "Cancel"),
        h("button", { type: "button", class: "primary", onclick: () => dialog.close("yes") }, yes)));
    document.body.append(dialog);
    dialog.showModal();
  });
}
