// CSV files: decoded, read, and written so that a spreadsheet runs nothing in them.
const DELIMITERS = [",", ";", "\t", "|"], SAMPLE_ROWS = 20, SAMPLE_CHARACTERS = 65536;
const TEXT_NAMES = /^(text|texts|review|comment|content|message|body|sentence|document|input|utterance)$/i;
const NUMBER = /^[+-]?(\d+([.,]\d+)*|[.,]\d+)(e[+-]?\d+)?\s?%?$/i;

export class FileProblem extends Error {
  canRetry = false;
}

// {text, encoding} of the file's bytes. UTF-8 and UTF-16 by their marks; otherwise UTF-8, or else Windows-1252.
export function decode(bytes) {
  const [a, b] = bytes;
  if (a === 0xff && b === 0xfe) return {text: new TextDecoder("utf-16le").decode(bytes), encoding: "UTF-16"};
  if (a === 0xfe && b === 0xff) return {text: new TextDecoder("utf-16be").decode(bytes), encoding: "UTF-16"};
  if (a === 0x50 && b === 0x4b) throw new FileProblem("This is an Excel file or a ZIP archive. Save it as CSV (UTF-8) and drop that.");
  if (bytes.subarray(0, 4096).includes(0)) throw new FileProblem("This is not a text file. Drop a CSV file, or use sentilora predict for Parquet.");
  try {
    return {text: new TextDecoder("utf-8", {fatal: true}).decode(bytes), encoding: "UTF-8"};
  } catch {
    return {text: new TextDecoder("windows-1252").decode(bytes), encoding: "Windows-1252"};
  }
}

// The rows of cells. A cell in quotes may hold delimiters, line breaks and doubled quotes.
export function parse(text, delimiter, maxRows = Infinity) {
  const rows = [];
  let row = [], at = 0;
  const ends = new RegExp(`[${delimiter === "|" ? "\\|" : delimiter}\r\n]`, "g");
  while (at < text.length && rows.length < maxRows) {
    let cell = "";
    if (text[at] === '"') {
      const opened = at++;
      for (;;) {
        const quote = text.indexOf('"', at);
        if (quote < 0) throw new FileProblem(`The quote that opens in line ${text.slice(0, opened).split("\n").length} never closes.`);
        cell += text.slice(at, quote);
        at = quote + 1;
        if (text[at] !== '"') break;
        cell += '"';
        at++;
      }
    }
    ends.lastIndex = at;
    const end = ends.exec(text)?.index ?? text.length;
    row.push(cell + text.slice(at, end));
    at = end + 1;
    if (text[end] === delimiter && at < text.length) continue;
    if (text[end] === delimiter) row.push("");
    if (text[end] === "\r" && text[at] === "\n") at++;
    if (row.length > 1 || row[0].trim()) rows.push(row);
    row = [];
  }
  return rows;
}

// The delimiter that gives the most columns in every row of the sample; else the header line's most frequent.
export function guessDelimiter(text) {
  const sample = text.slice(0, SAMPLE_CHARACTERS);
  const scores = DELIMITERS.map((delimiter) => {
    let rows;
    try { rows = parse(sample, delimiter, SAMPLE_ROWS); } catch { return 0; }  // cut in a quote: not this one
    const [{length = 1} = []] = rows, isEven = rows.every((row) => row.length === length);
    return length === 1 ? 0 : isEven ? 1000 + length : length;
  });
  const best = Math.max(...scores);
  return best ? DELIMITERS[scores.indexOf(best)] : ",";
}

// Whether the first row names the columns: no cell of it is empty, a number, or long, and none repeats.
export function guessHeader(rows) {
  const [first] = rows;
  if (first.some((cell) => TEXT_NAMES.test(cell.trim()))) return true;
  return rows.length > 1 && new Set(first).size === first.length &&
    first.every((cell) => cell.trim() && cell.length <= 30 && !NUMBER.test(cell.trim()) && !/[.!?]$/.test(cell.trim()));
}

// Number of the column of the texts: by the names, or else the one with the longest cells.
export function guessTextColumn(names, rows, known = null) {
  const wanted = known === null ? TEXT_NAMES : new RegExp(`^${known.replace(/[^\w]/g, "\\$&")}$`, "i");
  const named = names.findIndex((name) => wanted.test(name.trim()));
  if (named >= 0) return named;
  const lengths = names.map((_, i) => rows.slice(0, SAMPLE_ROWS).reduce((sum, row) => sum + (row[i] ?? "").length, 0));
  return lengths.indexOf(Math.max(...lengths));
}

// {names, rows, encoding, delimiter, hasHeader} of a file. hasHeader: null guesses. isLines: each line is a text.
export function readTable(bytes, {hasHeader = null, isLines = false} = {}) {
  const {text, encoding} = decode(bytes), stated = /^sep=(.)\r?\n/.exec(text);
  const body = stated ? text.slice(stated[0].length) : text, delimiter = stated?.[1] ?? (isLines ? "," : guessDelimiter(body));
  const all = isLines ? body.split(/\r\n?|\n/).filter((line) => line.trim()).map((line) => [line]) : parse(body, delimiter);
  if (!all.length) throw new FileProblem("This file is empty.");
  const isHeader = hasHeader ?? guessHeader(all), rows = isHeader ? all.slice(1) : all;
  if (!rows.length) throw new FileProblem("This file has a header, and no rows.");
  const width = rows.reduce((most, row) => Math.max(most, row.length), isHeader ? all[0].length : 1);
  const names = Array.from({length: width}, (_, i) => (isHeader && all[0][i]?.trim()) || `column ${i + 1}`);
  return {names, rows, encoding, delimiter, hasHeader: isHeader};
}

// A cell that a spreadsheet would run as a formula starts with an apostrophe instead; numbers stay numbers.
const safe = (cell) => (/^\s*[=+\-@\t\r]/.test(cell) && !NUMBER.test(cell) ? `'${cell}` : cell);

export function write(rows, delimiter) {
  const quoted = (cell) => (/["\r\n,;\t|]|^\s|\s$/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);
  return "\ufeff" + rows.map((row) => row.map((cell) => quoted(safe(String(cell ?? "")))).join(delimiter) + "\r\n").join("");
}
