// The page's frame: which view the address names, and the key.

import { hasKey, keyDialog } from "./api.js";
import { announce, h, problem } from "./dom.js";
import { datasetView, datasetsView, versionView } from "./datasets.js";
import { predictView } from "./predict.js";
import { runView } from "./run.js";
import { runsView } from "./runs.js";
import { uploadView } from "./upload.js";

const ROUTES = [
  [/^#\/predict(?:\/([^/]+))?$/, predictView, "#/predict"],
  [/^#\/upload(?:\/([^/]+))?$/, uploadView, "#/upload"],
  [/^#\/runs$/, runsView, "#/runs"],
  [/^#\/runs\/([^/]+)$/, runView, "#/runs"],
  [/^#\/datasets$/, datasetsView, "#/datasets"],
  [/^#\/datasets\/([^/]+)$/, datasetView, "#/datasets"],
  [/^#\/datasets\/([^/]+)\/versions\/([^/]+)$/, versionView, "#/datasets"],
];

const main = document.getElementById("main");
const keyButton = document.getElementById("key-button");
let leaving = null;

/** Show the view that the address names. A view is `(signal, ...names) => { title, element }`. */
function navigate(focus) {
  leaving?.abort();
  leaving = new AbortController();
  const hash = location.hash === "" || location.hash === "#main" ? "#/predict" : location.hash;
  const [names, view, section] = ROUTES.map(([form, view, section]) => [form.exec(hash), view, section]).find(([names]) => names)
    ?? [[], notFound, null];
  const { title, element } = view(leaving.signal, ...names.slice(1).map((name) => name && decodeURIComponent(name)));
  document.title = `${title} – droptune`;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === section) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  main.replaceChildren(element);
  window.scrollTo(0, 0);
  if (focus) {
    main.focus({ preventScroll: true });
    announce(title);
  }
}

function notFound() {
  return {
    title: "Not found",
    element: h("div", {}, h("h1", {}, "Not found"), problem({ message: "The console has no such page.", hint: "Choose one above." })),
  };
}

window.addEventListener("hashchange", (event) => {
  // The link that skips to the content is no view.
  if (new URL(event.newURL).hash === "#main") main.focus();
  else navigate(true);
});
window.addEventListener("droptune-key", () => { keyButton.hidden = false; });
keyButton.addEventListener("click", () => keyDialog().then(() => navigate(true), () => keyButton.focus()));
keyButton.hidden = !hasKey();
navigate(false);
