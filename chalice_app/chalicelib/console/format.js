// Numbers and times as a person reads them.

export const percent = (share, digits = 1) => (share === null || share === undefined ? "–" : `${(share * 100).toFixed(digits)} %`);

export const count = (number, noun, nouns = `${noun}s`) => `${number.toLocaleString("en")} ${number === 1 ? noun : nouns}`;

export function bytes(number) {
  if (number === null || number === undefined) return "–";
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let power = 0;
  while (number >= 1000 && power < units.length - 1) [number, power] = [number / 1000, power + 1];
  return `${power === 0 ? number : number.toFixed(1)} ${units[power]}`;
}

export function duration(seconds) {
  if (seconds === null || Number.isNaN(seconds)) return "–";
  if (seconds < 9.95) return `${Math.max(seconds, 0).toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

/** Seconds between two times of the API; an end that has not come counts as now. */
export function secondsBetween(start, end) {
  return start ? ((end ? Date.parse(end) : Date.now()) - Date.parse(start)) / 1000 : null;
}

export function moment(text) {
  if (!text) return "–";
  return new Date(text).toLocaleString("en-GB", { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" });
}

/** A number with as many digits as tell it from others. */
export function number(value) {
  if (value === null || value === undefined) return "–";
  return Number.isInteger(value) ? String(value) : Math.abs(value) < 0.001 ? value.toExponential(2) : String(+value.toPrecision(4));
}

/** A hyper-parameter, which SageMaker gives as text, sometimes in quotation marks. */
export function setting(text) {
  const plain = String(text).replace(/^"|"$/g, "");
  return /^-?\d+\.\d{4,}(e[-+]?\d+)?$/i.test(plain) ? number(Number(plain)) : plain;
}
