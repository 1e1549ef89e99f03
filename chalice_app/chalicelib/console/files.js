// Reads what was dropped or chosen: folders, archives, labels files; and says what of it belongs to a dataset.
// The rules are those of the API (chalicelib/names.py and upload_links.py).

import { imageType, suffix } from "./images.js";

export const DATASET = /^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$/;
const SPLITS = new Set(["train", "valid", "test"]);
const IGNORED = new Set(["Thumbs.db", "desktop.ini", "COPYRIGHT", "LICENSE"]);
const IMAGE_SUFFIXES = new Set(["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"]);
const LABELS_TYPES = { csv: "text/csv", manifest: "application/x-ndjson" };
const ARCHIVES = [[/\.zip$/i, "application/zip"], [/\.tar$/i, "application/x-tar"], [/\.(tar\.gz|tgz)$/i, "application/gzip"]];

/** What a drop holds, folders walked. @returns {Promise<{ path: string, file: File }[]>} */
export async function fromDrop(transfer) {
  // The list is emptied when the event is over: all entries are taken before anything is awaited.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (entries.length === 0) return fromList(transfer.files);
  return (await Promise.all(entries.map(walk))).flat();
}

/** What a file field holds; with `webkitdirectory` each file knows its folder. */
export function fromList(list) {
  return [...list].map((file) => ({ path: file.webkitRelativePath || file.name, file }));
}

async function walk(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ path: entry.fullPath.replace(/^\//, ""), file }];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    // A reader gives a hundred at a time, and none at the end.
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return found;
    found.push(...(await Promise.all(some.map(walk))).flat());
  }
}

/**
 * What would be uploaded. A folder around everything gives the dataset its name and is not part of it.
 * @returns {{ name: string, files: { path, file, type }[], leftOut: { path, reason }[], classes: Map<string, number>, warnings: string[] }}
 */
export function plan(entries) {
  const root = rootOf(entries.map((entry) => entry.path));
  const files = [];
  const leftOut = [];
  for (const { path: given, file } of entries) {
    const path = root ? given.slice(root.length + 1) : given;
    const type = typeOf(path, file);
    const reason = refusal(path, file, type);
    if (reason === "") continue;
    if (reason) leftOut.push({ path, reason });
    else files.push({ path, file, type });
  }
  const classes = new Map();
  for (const { path, type } of files) {
    const parts = path.split("/");
    if (!type.startsWith("image/")) continue;
    const label = SPLITS.has(parts[0]) && parts.length > 2 ? parts[1] : parts.length > 1 ? parts[0] : null;
    classes.set(label, (classes.get(label) ?? 0) + 1);
  }
  return { name: suggestedName(root, files), files, leftOut, classes, warnings: warningsOf(files, classes) };
}

function rootOf(paths) {
  const [first] = new Set(paths.map((path) => path.split("/")[0]));
  const shared = paths.every((path) => path.startsWith(`${first}/`));
  // A class folder alone, or `train` alone, is part of the dataset.
  const around = paths.some((path) => path.split("/").length > 2 || isAtTop(path.split("/").slice(1).join("/")));
  return shared && around && !SPLITS.has(first) ? first : "";
}

const isAtTop = (path) => path !== "" && !path.includes("/") && (archiveType(path) || LABELS_TYPES[suffix(path)]);

const archiveType = (path) => ARCHIVES.find(([form]) => form.test(path))?.[1];

function typeOf(path, file) {
  if (!path.includes("/")) {
    const type = archiveType(path) ?? LABELS_TYPES[suffix(path)];
    if (type) return type;
  }
  return IMAGE_SUFFIXES.has(suffix(path)) ? imageType(file) : "";
}

/** Why a file is left out; "" for what nobody would miss, null for what is taken. */
function refusal(path, file, type) {
  const parts = path.split("/");
  const name = parts.at(-1);
  if (/^[._]|^README/.test(name) || IGNORED.has(name) || parts.some((part) => part.startsWith(".") || part === "__MACOSX")) return "";
  if (file.size === 0) return "The file is empty.";
  if (!type) return path.includes("/") ? "Not an image (JPEG, PNG, WebP, GIF, BMP, TIFF)." : "Not an image, an archive or a labels file.";
  if (/[\\\p{C}]|\$\{/u.test(path) || new TextEncoder().encode(path).length > 900) return "The name cannot be a key in S3; rename the file.";
  return null;
}

function suggestedName(root, files) {
  const source = root || (files.length === 1 && isAtTop(files[0].path) ? files[0].file.name.replace(/\.[a-z.]+$/i, "") : "");
  return source.toLowerCase().replace(/[^a-z0-9]+/g, "-").slice(0, 32).replace(/^-+|-+$/g, "");
}

function warningsOf(files, classes) {
  const whole = files.some(({ path }) => isAtTop(path));
  const warnings = [];
  if (classes.has(null) && !whole) warnings.push("Some images lie in no class folder. They will be left out, unless a labels file names them.");
  if (!whole && files.length && classes.size - classes.has(null) < 2) warnings.push("A classifier needs at least two classes: two folders of images, unless the dataset has others already.");
  return warnings;
}
