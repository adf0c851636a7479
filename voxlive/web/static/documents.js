/** The transcript as documents: Markdown, and Office Open XML (ECMA-376) in a ZIP archive of its own. */
import { clock } from "./dom.js";

/** @typedef {import("./transcript.js").Transcript} Transcript */

// What is markup in CommonMark or in its dialects; HTML is escaped as HTML.
const MARKDOWN = /[\\`*_[\]#|~$]|^[-+=]|^\d+(?=[.)])/gu;
/** @type {Record<string, string>} */
const ENTITIES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
const NOT_XML = /[^\t\n\r\x20-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/gu;

/**
 * Title, facts and a paragraph with its time for each of the transcript's. Nothing in the texts is markup.
 * @param {Transcript} transcript @param {string} title
 */
export function toMarkdown(transcript, title) {
  const facts = factsOf(transcript).map(([name, value]) => `- ${name}: ${escaped(value)}`);
  const blocks = blocksOf(transcript).map(({ label, text }) => `**${escaped(label)}** ${escaped(text)}`);
  return `${[`# ${escaped(title)}`, facts.join("\n"), ...blocks].join("\n\n")}\n`;
}

/** The same as a file for word processors. @param {Transcript} transcript @param {string} title */
export function toDocx(transcript, title) {
  const paragraphs = [
    `<w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr>${run(title)}</w:p>`,
    ...factsOf(transcript).map(([name, value]) => `<w:p>${run(`${name}: ${value}`)}</w:p>`),
    ...blocksOf(transcript).map(({ label, text }) => `<w:p>${run(`${label} `, true)}${run(text)}</w:p>`),
  ];
  const body = `<w:body>${paragraphs.join("")}<w:sectPr/></w:body>`;
  return zip({
    "[Content_Types].xml": `${XML}<Types xmlns="${PACKAGE}/content-types">${TYPES}</Types>`,
    "_rels/.rels": relations("officeDocument", "word/document.xml"),
    "word/_rels/document.xml.rels": relations("styles", "styles.xml"),
    "word/document.xml": `${XML}<w:document ${WORD}>${body}</w:document>`,
    "word/styles.xml": `${XML}<w:styles ${WORD}>${STYLES}</w:styles>`,
  });
}

/** @param {Transcript} transcript @returns {[string, string][]} */
function factsOf({ about, duration }) {
  const { created, model, language } = /** @type {Record<string, string | null | undefined>} */ (about);
  /** @type {[string, string | null | undefined][]} */
  const facts = [
    ["Began", created && `${created.slice(0, 16).replace("T", " ")} UTC`],
    ["Length", Number.isFinite(duration) ? clock(duration) : ""],
    ["Language", language],
    ["Model", model],
  ];
  return facts.flatMap(([name, value]) => (value ? [[name, value]] : []));
}

/** @param {Transcript} transcript */
function blocksOf({ items }) {
  return items
    .filter(({ text }) => text.trim() !== "")
    .map((item) => {
      if (item.kind === "mark") return { label: clock(item.at), text: `[${item.text}]` };
      return { label: `${clock(item.start)} ${item.who}`.trim(), text: item.text.trim() };
    });
}

/** @param {string} text */
function escaped(text) {
  const line = text.replace(/\s+/gu, " ").trim();
  // Of what begins a list the mark behind the number is escaped: "1\. ".
  const marked = line.replace(MARKDOWN, (mark) => (/\d/.test(mark) ? `${mark}\\` : `\\${mark}`));
  return marked.replace(/[&<>]/gu, (mark) => ENTITIES[mark]);
}

const XML = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>';
const SCHEMAS = "http://schemas.openxmlformats.org";
const PACKAGE = `${SCHEMAS}/package/2006`;
const WORD = `xmlns:w="${SCHEMAS}/wordprocessingml/2006/main"`;
const MAIN = "application/vnd.openxmlformats-officedocument.wordprocessingml";
const TYPES =
  '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>' +
  `<Override PartName="/word/document.xml" ContentType="${MAIN}.document.main+xml"/>` +
  `<Override PartName="/word/styles.xml" ContentType="${MAIN}.styles+xml"/>`;
const STYLES =
  '<w:style w:type="paragraph" w:default="1" w:styleId="Normal"><w:name w:val="Normal"/>' +
  '<w:pPr><w:spacing w:after="160"/></w:pPr></w:style>' +
  '<w:style w:type="paragraph" w:styleId="Heading1"><w:name w:val="heading 1"/><w:basedOn w:val="Normal"/>' +
  '<w:pPr><w:outlineLvl w:val="0"/></w:pPr><w:rPr><w:b/><w:sz w:val="32"/></w:rPr></w:style>';

/** @param {string} text @param {boolean} [bold] */
function run(text, bold = false) {
  const plain = text.replace(NOT_XML, "\ufffd").replace(/[&<>"]/gu, (mark) => ENTITIES[mark]);
  return `<w:r>${bold ? "<w:rPr><w:b/></w:rPr>" : ""}<w:t xml:space="preserve">${plain}</w:t></w:r>`;
}

/** @param {string} kind @param {string} target */
function relations(kind, target) {
  const type = `${SCHEMAS}/officeDocument/2006/relationships/${kind}`;
  const relation = `<Relationship Id="rId1" Type="${type}" Target="${target}"/>`;
  return `${XML}<Relationships xmlns="${PACKAGE}/relationships">${relation}</Relationships>`;
}

/**
 * An archive with files that are stored as they are (APPNOTE.TXT 6.3, 4.3).
 * @param {Record<string, string>} files texts by their paths
 */
function zip(files) {
  const encoder = new TextEncoder();
  /** @type {Uint8Array<ArrayBuffer>[]} */
  const parts = [];
  /** @type {Uint8Array<ArrayBuffer>[]} */
  const directory = [];
  let at = 0;
  for (const [path, text] of Object.entries(files)) {
    const name = encoder.encode(path);
    const content = encoder.encode(text);
    const sum = crc32(content);
    // Version 2.0; UTF-8 names; stored; the first of January 1980.
    const fields = [[2, 20], [2, 0x800], [2, 0], [2, 0], [2, 33], [4, sum], [4, content.length], [4, content.length], [2, name.length], [2, 0]];
    const local = bytes([[4, 0x04034b50], ...fields]);
    directory.push(bytes([[4, 0x02014b50], [2, 20], ...fields, [2, 0], [2, 0], [2, 0], [4, 0], [4, at]]), name);
    parts.push(local, name, content);
    at += local.length + name.length + content.length;
  }
  const count = Object.keys(files).length;
  const size = directory.reduce((sum, { length }) => sum + length, 0);
  const end = bytes([[4, 0x06054b50], [2, 0], [2, 0], [2, count], [2, count], [4, size], [4, at], [2, 0]]);
  return new Blob([...parts, ...directory, end]);
}

/** Numbers of two or four bytes, the lowest one first. @param {number[][]} fields */
function bytes(fields) {
  const list = fields.flatMap(([size, value]) => Array.from({ length: size }, (_, n) => (value >>> (8 * n)) & 255));
  return Uint8Array.from(list);
}

/** ISO 3309. @param {Uint8Array} content */
function crc32(content) {
  let sum = 0xffffffff;
  for (const byte of content) {
    sum ^= byte;
    for (let bit = 0; bit < 8; bit++) sum = (sum >>> 1) ^ (sum & 1 ? 0xedb88320 : 0);
  }
  return ~sum >>> 0;
}
