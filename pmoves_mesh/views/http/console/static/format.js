// How times, sizes and shares read.

const MINUTE = 60;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** Returns a time as a person reads it here: the day only if it is not today's. */
export function clock(time, now = Date.now()) {
  const moment = new Date(time);
  if (!time || Number.isNaN(moment.getTime())) return "never";
  const shown = moment.toLocaleTimeString("en-GB");
  return moment.toDateString() === new Date(now).toDateString() ? shown : `${day(moment)} ${shown}`;
}

/** Returns a time with its day and milliseconds. */
export function exact(time) {
  const moment = new Date(time);
  if (!time || Number.isNaN(moment.getTime())) return "never";
  return `${day(moment)} ${moment.toLocaleTimeString("en-GB")}.${String(moment.getMilliseconds()).padStart(3, "0")}`;
}

function day(moment) {
  const two = (number) => String(number).padStart(2, "0");
  return `${moment.getFullYear()}-${two(moment.getMonth() + 1)}-${two(moment.getDate())}`;
}

/** Returns a span of seconds in its two largest units. */
export function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < MINUTE) return `${whole} s`;
  if (whole < HOUR) return joined(whole, MINUTE, "min", 1, "s");
  if (whole < DAY) return joined(whole, HOUR, "h", MINUTE, "min");
  return joined(whole, DAY, "d", HOUR, "h");
}

function joined(whole, large, largeName, small, smallName) {
  const rest = Math.floor((whole % large) / small);
  return `${Math.floor(whole / large)} ${largeName}${rest ? ` ${rest} ${smallName}` : ""}`;
}

/** Returns how long ago a time was. */
export function ago(time, now = Date.now()) {
  const moment = Date.parse(time);
  return Number.isNaN(moment) ? "never" : `${span((now - moment) / 1000)} ago`;
}

/** Returns a number and its noun, which gets an s unless there is one. */
export function count(number, noun, plural = `${noun}s`) {
  return `${number.toLocaleString("en-GB")} ${number === 1 ? noun : plural}`;
}

/** Returns what an event is, by its subject without what all of them have. */
export function kind(subject) {
  return subject.replace(/^(service\.registry|mesh)\./, "").replace(/\.v\d+$/, "");
}

/** Returns bytes in the largest unit that leaves a number above one. */
export function size(bytes) {
  return bytes < 1024 ? `${bytes} B` : `${(bytes / 1024).toFixed(1)} KiB`;
}

/** Returns the address of something that listens; an address of IPv6 is put in brackets. */
export function address(host, port) {
  const shown = host.includes(":") && !host.startsWith("[") ? `[${host}]` : host;
  return port ? `${shown}:${port}` : shown;
}

/** Returns the last part of a SPIFFE ID, with what it is. */
export function identity(id) {
  return id ? id.split("/").slice(-2).join(" ") : "nobody";
}

/** Returns what a node has, in a few words. */
export function resources(found) {
  const gpus = Array.isArray(found.gpu) ? found.gpu : [];
  const one = gpus[0];
  const gpu = one ? `${gpus.length > 1 ? `${gpus.length} × ` : ""}${one.model || one.vendor}` : "";
  return [
    found.board,
    found.cpu_cores ? count(found.cpu_cores, "core") : "",
    found.memory_gb ? `${found.memory_gb} GiB` : "",
    gpu && one.memory_gb ? `${gpu} (${one.memory_gb} GiB)` : gpu,
    found.arch,
  ]
    .filter(Boolean)
    .map(String);
}
