// The sample kiosk page. It keeps no state of its own but the id of the payment it shows: what to show is always what
// the agent says, so that a reload, a second tab or a crash of the browser goes on where the payment is.

import { Problem, get, listen, post, signIn, sleep } from "./agent.js";
import { WORDS } from "./words.js";

const FINAL = new Set(["completed", "cancelled", "expired", "failed"]);
const DIGITS_MAX = 7;
const TILES_MAX = 6;
const NOTICE_MS = 6000;
const LOST_AFTER_MS = 1500;
const LOOK_AGAIN_MS = 10000;
const RESULT_S = { plain: 20, claim: 120 };

const $ = (id) => document.getElementById(id);
const state = {
  lang: localStorage.getItem("lang") || "en",
  payment: null,
  acceptance: null,
  payBy: 0,
  typed: null,
  signedIn: true,
  busy: false,
  resultUntil: 0,
  notice: null,
  noticeUntil: 0,
};

// --- words and numbers -----------------------------------------------------------------------------------------------

const t = (name, values = {}) =>
  Object.entries(values).reduce((text, [key, value]) => text.replaceAll(`{${key}}`, value), WORDS[state.lang][name]);

function money(minor, currency) {
  const format = new Intl.NumberFormat(state.lang, { style: "currency", currency });
  const digits = format.resolvedOptions().maximumFractionDigits;
  const whole = minor % 10 ** digits === 0;
  const shown = new Intl.NumberFormat(state.lang, {
    style: "currency", currency, minimumFractionDigits: whole ? 0 : digits, maximumFractionDigits: whole ? 0 : digits,
  });
  return shown.format(minor / 10 ** digits);
}

function clock(seconds) {
  const whole = Math.max(0, Math.ceil(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

function speak(lang) {
  state.lang = lang in WORDS ? lang : "en";
  localStorage.setItem("lang", state.lang);
  document.documentElement.lang = state.lang;
  document.title = t("title");
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of document.querySelectorAll("[data-t-label]")) element.setAttribute("aria-label", t(element.dataset.tLabel));
  for (const button of document.querySelectorAll("[data-lang]")) {
    button.setAttribute("aria-pressed", String(button.dataset.lang === state.lang));
  }
  show();
}

function text(id, words) {
  if ($(id).textContent !== words) $(id).textContent = words; // a live region speaks only when something is new
}

// --- what to show ----------------------------------------------------------------------------------------------------

function viewOf() {
  const { payment, acceptance } = state;
  if (!state.signedIn) return "closed";
  if (payment) {
    if (FINAL.has(payment.state)) return "result";
    return payment.state === "collecting" ? "pay" : "working";
  }
  if (!acceptance) return "loading";
  if (!acceptance.accepting) return "closed";
  return state.typed === null ? "choose" : "keypad";
}

function show() {
  const view = viewOf();
  const changed = document.body.dataset.view !== view;
  document.body.dataset.view = view;
  for (const section of document.querySelectorAll(".view")) section.hidden = section.id !== view;
  ({ choose: showTiles, keypad: showKeypad, pay: showPay, working: showWorking, result: showResult, closed: showClosed })[view]?.();
  if (changed) {
    $(view).querySelector("h1")?.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

const currency = () => Object.keys(state.acceptance?.currencies ?? {})[0] ?? "EUR";

function showTiles() {
  const values = (state.acceptance.currencies[currency()] ?? []).slice(0, TILES_MAX);
  const wanted = values.map((minor) => money(minor, currency())).join("|");
  if ($("tiles").dataset.shown === wanted) return;
  $("tiles").dataset.shown = wanted;
  $("tiles").replaceChildren(
    ...values.map((minor) => button(money(minor, currency()), () => start(minor))),
  );
}

function button(label, act, name) {
  const element = document.createElement("button");
  element.type = "button";
  element.textContent = label;
  if (name) element.setAttribute("aria-label", name);
  element.addEventListener("click", act);
  return element;
}

function showKeypad() {
  const unit = 10 ** new Intl.NumberFormat("en", { style: "currency", currency: currency() }).resolvedOptions().maximumFractionDigits;
  text("typed", money(Number(state.typed || "0") * unit, currency()));
  $("keypad-ok").disabled = !Number(state.typed);
  if (!$("keys").children.length) {
    for (const digit of ["1", "2", "3", "4", "5", "6", "7", "8", "9", "00", "0"]) $("keys").append(button(digit, () => type(digit)));
    $("keys").append(button("⌫", () => type("Backspace")));
  }
  $("keys").lastElementChild.setAttribute("aria-label", t("erase"));
  $("keypad-ok").onclick = () => start(Number(state.typed) * unit);
}

function type(key) {
  if (key === "Escape") state.typed = null;
  else if (/^[0-9]+$/.test(key) && state.typed.length + key.length <= DIGITS_MAX) state.typed = (state.typed + key).replace(/^0+/, "");
  else if (key === "Backspace") state.typed = state.typed.slice(0, -1);
  else return;
  show();
}

function showPay() {
  const { payment } = state;
  const part = Math.min(1, payment.collected_minor / payment.amount_minor) * 100;
  const total = money(payment.amount_minor, payment.currency);
  const credit = money(payment.collected_minor, payment.currency);
  const notes = (state.acceptance?.currencies[payment.currency] ?? []).filter(
    (minor) => !payment.allowed_minor.length || payment.allowed_minor.includes(minor),
  );
  text("pay-lead", notes.length ? t("pay_lead", { notes: notes.map((minor) => money(minor, payment.currency)).join(", ") }) : t("pay_lead_any"));
  $("ring").style.strokeDasharray = `${part} 200`;
  $("ring").classList.toggle("none", part === 0);
  text("credit", credit);
  $("credit").classList.toggle("long", credit.length > 8);
  text("of", t("of", { amount: total }));
  text("missing", t("missing", { amount: money(payment.missing_minor, payment.currency) }));
  text("credit-spoken", t("spoken", { amount: credit, total }));
  showDoubt("doubt");
  $("finish").hidden = !payment.allow_partial || payment.collected_minor === 0;
  text("finish", t("finish", { amount: credit }));
  $("cancel").disabled = $("finish").disabled = $("extend").disabled = state.busy;
  if (state.acceptance && state.acceptance.reasons.length) notice(() => t("paused"));
  showNotice();
  showTime();
}

function showTime() {
  const { payment } = state;
  if (viewOf() !== "pay") return;
  const left = (state.payBy - performance.now()) / 1000;
  const soon = left <= payment.warn_s;
  text("countdown", t("time_left", { time: clock(left) }));
  $("time").classList.toggle("soon", soon);
  $("extend").hidden = !(soon && payment.extensions_left > 0);
  text("time-spoken", soon && payment.extensions_left > 0 ? t("time_soon") : "");
}

function showDoubt(id) {
  const { payment } = state;
  $(id).hidden = payment.in_doubt_minor === 0;
  text(id, payment.in_doubt_minor ? t("doubt", { amount: money(payment.in_doubt_minor, payment.currency) }) : "");
}

function showWorking() {
  const doing = { cancelling: "cancelling", expiring: "expiring" }[state.payment.state] ?? "completing";
  text("working-title", t(doing));
}

function showResult() {
  const { payment } = state;
  const paid = payment.state === "completed";
  $("result").dataset.result = paid ? "good" : "calm";
  text("result-title", paid ? t("paid_title", { amount: money(payment.paid_minor, payment.currency) }) : t(`${payment.state}_title`));
  const nothing = payment.in_doubt_minor ? "" : t("nothing_taken");
  const owed = payment.claims.length ? t("owed_text") : nothing;
  text("result-text", paid ? t(payment.claims.length ? "paid_over" : "paid_text") : owed);
  showClaims(payment.claims);
  showDoubt("result-doubt");
  if (!state.resultUntil) {
    state.resultUntil = performance.now() + RESULT_S[payment.claims.length ? "claim" : "plain"] * 1000;
  }
  showResultTime();
}

function showClaims(claims) {
  const wanted = state.lang + claims.map((claim) => claim.code).join();
  if ($("claims").dataset.shown === wanted) return;
  $("claims").dataset.shown = wanted;
  $("claims").replaceChildren(
    ...claims.map((claim) => {
      const card = document.createElement("div");
      card.className = "claim";
      const parts = [["label", t("claim_label")], ["code", `${claim.code.slice(0, 5)} ${claim.code.slice(5)}`], ["worth", money(claim.amount_minor, claim.currency)]];
      for (const [kind, words] of parts) {
        const line = document.createElement("span");
        line.className = kind;
        line.textContent = words;
        if (kind === "code") line.setAttribute("aria-label", [...claim.code].join(" "));
        card.append(line);
      }
      return card;
    }),
  );
}

function showResultTime() {
  if (viewOf() !== "result") return;
  const left = (state.resultUntil - performance.now()) / 1000;
  if (left <= 0) dismiss();
  else text("done", t("closing", { label: t(state.payment.claims.length ? "claim_done" : "done"), time: clock(left) }));
}

function showClosed() {
  text("closed-title", t(state.signedIn ? "closed_title" : "signin_title"));
  text("closed-text", t(state.signedIn ? "closed_text" : "signin_text"));
  text("closed-why", state.signedIn ? (state.acceptance?.reasons ?? []).join(", ") : "");
}

/** `words` is asked anew for every language. */
function notice(words, good = false) {
  state.notice = words;
  state.noticeUntil = performance.now() + NOTICE_MS;
  $("notice").classList.toggle("good", good);
  showNotice();
}

function showNotice() {
  if (state.notice && performance.now() > state.noticeUntil) state.notice = null;
  text("notice", state.notice ? state.notice() : "");
  $("notice").hidden = !state.notice;
}

function problem(error) {
  const words = error.code === "amount_too_large" ? t("amount_too_large") : t("problem");
  text("choose-problem", words);
  $("choose-problem").hidden = false;
  state.typed = null;
}

// --- what the agent says ---------------------------------------------------------------------------------------------

let looking = null;
let lookAgain = false;

/** Ask the agent how things are. Calls that come while one runs become one more look afterwards. */
function look() {
  lookAgain = true;
  looking ??= (async () => {
    while (lookAgain) {
      lookAgain = false;
      await lookOnce().catch((error) => {
        if (error instanceof Problem && error.status === 401) state.signedIn = false;
        else lineIs(false);
      });
    }
    looking = null;
    show();
  })();
  return looking;
}

async function lookOnce() {
  const id = sessionStorage.getItem("payment");
  const [now, shown] = await Promise.all([get("/cash/snapshot"), id ? get(`/cash/payments/${id}`).catch(ifMissing) : null]);
  state.signedIn = true;
  state.acceptance = now.acceptance;
  take(shown ?? now.payment);
  lineIs(true);
}

/** Another journal, as after a replaced disk, does not know the payment that this tab remembers. */
function ifMissing(error) {
  if (error instanceof Problem && error.status === 404) return null;
  throw error;
}

function take(payment) {
  const same = payment && state.payment && payment.id === state.payment.id;
  if (same && payment.collected_minor > state.payment.collected_minor) {
    const more = payment.collected_minor - state.payment.collected_minor;
    notice(() => t("noticed", { amount: money(more, payment.currency) }), true);
  }
  if (!same) {
    state.notice = null;
    state.resultUntil = 0;
  }
  state.payment = payment;
  if (!payment) return sessionStorage.removeItem("payment");
  sessionStorage.setItem("payment", payment.id);
  state.typed = null;
  $("choose-problem").hidden = true;
  if (payment.remaining_s !== null) state.payBy = performance.now() + payment.remaining_s * 1000;
}

function heard(type, data) {
  if (type === "cash.note.return_requested" || type === "cash.note.rejected") {
    const reason = data.reason === "inhibit" ? "denomination_not_allowed" : data.reason; // the device's word for it
    notice(() => `${t("returned")}. ${t("why")[reason] ?? t("why").other}`);
  }
  look();
}

let lostTimer = null;

/** The line is down for a moment at every restart of the agent: only a longer break is worth a word. */
function lineIs(up) {
  if (up) {
    clearTimeout(lostTimer);
    lostTimer = null;
    $("lost").hidden = true;
  } else {
    lostTimer ??= setTimeout(() => { $("lost").hidden = false; }, LOST_AFTER_MS);
  }
}

// --- what the customer does ------------------------------------------------------------------------------------------

async function act(work) {
  if (state.busy) return;
  state.busy = true;
  show();
  try {
    take(await work());
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (!state.payment && error.code !== "payment_in_progress") problem(error);
  } finally {
    state.busy = false;
    await look();
  }
}

/** A second tap or a second tab cannot start another: the agent names the open payment and the page shows that one. */
function start(amount_minor) {
  return act(() => post("/cash/payments", { amount_minor, currency: currency(), reference: "kiosk page" }));
}

const on = (verb, body) => act(() => post(`/cash/payments/${state.payment.id}/${verb}`, body));

function dismiss() {
  sessionStorage.removeItem("payment");
  state.payment = null;
  state.resultUntil = 0;
  look();
}

function wire() {
  for (const button of document.querySelectorAll("[data-lang]")) button.onclick = () => speak(button.dataset.lang);
  $("other").onclick = () => { state.typed = ""; show(); };
  $("keypad-back").onclick = () => { state.typed = null; show(); };
  $("cancel").onclick = () => on("cancel", { reason: "customer" });
  $("extend").onclick = () => on("extend", {});
  $("finish").onclick = () => on("finish", {});
  $("done").onclick = dismiss;
  document.addEventListener("keydown", (event) => {
    if (document.body.dataset.view === "keypad") type(event.key);
  });
}

async function main() {
  wire();
  speak(state.lang);
  await signIn().catch(() => lineIs(false));
  await look();
  listen(heard, (up) => { lineIs(up); look(); });
  let looked = performance.now();
  for (;;) {
    await sleep(250);
    const now = performance.now();
    if (state.notice) showNotice();
    showTime();
    showResultTime();
    if (now - looked > LOOK_AGAIN_MS) {
      looked = now;
      look();
    }
  }
}

main();
