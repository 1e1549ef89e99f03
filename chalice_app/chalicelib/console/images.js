// Images in the browser: shrinking what is too large to send, and showing what was sent.

// API Gateway hands 4.5 MB on at most; what a model looks at is far smaller.
const MAX_BYTES = 4_400_000;
const LONGER_SIDE = 2000;
const TYPES = ["image/jpeg", "image/png", "image/webp", "image/bmp", "image/tiff", "image/gif"];
const BY_SUFFIX = {
  jpg: "image/jpeg", jpeg: "image/jpeg", png: "image/png", webp: "image/webp",
  gif: "image/gif", bmp: "image/bmp", tif: "image/tiff", tiff: "image/tiff",
};

export const suffix = (name) => name.toLowerCase().split(".").pop();

/** The image type of a file by its name, else what the browser says; "" for no image. */
export const imageType = (file) => BY_SUFFIX[suffix(file.name)] ?? (file.type.startsWith("image/") ? file.type : "");

/**
 * What to send for a file: itself, or a smaller JPEG when it is too large or of a type that only the browser reads.
 * @returns {Promise<{ body: Blob, type: string, note: string | null }>}
 */
export async function sendable(file) {
  const type = imageType(file);
  if (TYPES.includes(type) && file.size <= MAX_BYTES) return { body: file, type, note: null };
  let picture;
  try {
    picture = await createImageBitmap(file);
  } catch {
    throw Object.assign(new Error(`${file.name || "The file"} is no image that this browser can read.`),
      { code: "InvalidImage", hint: "Choose a JPEG, PNG or WebP image." });
  }
  const scale = Math.min(1, LONGER_SIDE / Math.max(picture.width, picture.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  picture.close();
  const body = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
  return { body, type: "image/jpeg", note: `Sent as a JPEG of ${canvas.width} × ${canvas.height} pixels.` };
}
