// A customer logs in, buys, watches the order to its end, and sees the codes once.

const API = document.querySelector("meta[name=api]").content;
const SAID = {
  in_progress: "We are working on it. The cards usually arrive within a minute.",
  delayed: "It is taking longer than usual. You need not do anything. Please do not order again.",
  delivered: "Your cards are here.",
  partly_delivered: "Some of your cards are here.",
  not_delivered: "We could not get your cards.",
};
const $ = selector => document.querySelector(selector);
const money = new Intl.NumberFormat(document.documentElement.lang, {style: "currency", currency: "DZD"});
const isAmount = text => Number(text) > 0;
const sleep = seconds => new Promise(done => setTimeout(done, 1000 * seconds));

let offers = [];
// Which order is watched; whoever watches another one, or nobody, counts on.
let watch = 0;
// By order, so that a repetition after a lost answer is the same reveal. Gone with the page.
const revealKeys = {};

class Refused extends Error {
  constructor(answer, body) {
    super(body.detail ?? Object.values(body).flat().join(" "));
    this.status = answer.status;
    this.pause = Number(answer.headers.get("Retry-After"));
  }
}

/** Send a request; its JSON, and the seconds after which to ask again (0: never). */
async function call(method, path, body) {
  const headers = {"Accept-Language": document.documentElement.lang};
  if (sessionStorage.token) headers.Authorization = `Token ${sessionStorage.token}`;
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(API + path, {
    method,
    headers,
    body: body && JSON.stringify(body),
    credentials: "omit",
    signal: AbortSignal.timeout(20_000),
  });
  const json = answer.status === 204 ? {} : await answer.json();
  if (answer.status === 401) forget();
  if (!answer.ok) throw new Refused(answer, json);
  return [json, Number(answer.headers.get("Retry-After"))];
}

function complain(text) {
  $("#trouble").textContent = text;
  $("#trouble").hidden = !text;
}

/** Do something for a press of a button, which is no use meanwhile. */
async function press(button, act) {
  complain("");
  button.disabled = true;
  try {
    await act();
  } catch (error) {
    complain(error instanceof Refused ? error.message : "No answer. Press the button again: nothing happens twice.");
  }
  button.disabled = false;
}

function onSubmit(form, act) {
  form.addEventListener("submit", event => {
    event.preventDefault();
    press(form.querySelector("button"), () => act(Object.fromEntries(new FormData(form))));
  });
}

function element(name, ...content) {
  const made = document.createElement(name);
  made.append(...content);
  return made;
}

/** Show what there is for who is logged in, or the form for logging in. */
async function enter() {
  const isInside = Boolean(sessionStorage.token);
  $("#login").hidden = isInside;
  $("#leave").hidden = !isInside;
  $("#buy").hidden = $("#orders").hidden = true;
  if (!isInside) return;
  try {
    await fillShelf();
    const newest = await list();
    $("#buy").hidden = $("#orders").hidden = false;
    if (newest && !newest.is_final) follow(newest.reference);
  } catch (error) {
    complain(error instanceof Refused ? error.message : "The shop does not answer. Load this page again.");
  }
}

async function fillShelf() {
  const select = $("#buy select");
  const chosen = select.value;
  const [shelf] = await call("GET", "offers/");
  offers = shelf.filter(offer => !offer.is_sold_out);
  select.replaceChildren(...offers.map(({id, name, price}) => {
    const option = element("option", `${name} · ${money.format(price)}`);
    option.value = id;
    option.selected = option.value === chosen;
    return option;
  }));
  describe();
}

function describe() {
  const chosen = offers.find(offer => offer.id === Number($("#buy select").value));
  const {note, region, instructions} = chosen ?? {};
  $("#note").textContent = [note, region && `Region: ${region}`, instructions].filter(Boolean).join("\n");
}

/** Show the customer's orders; the newest one. */
async function list() {
  const [orders] = await call("GET", "orders/");
  $("#orders ul").replaceChildren(...orders.map(({reference, name, quantity, state}) => {
    const button = element("button", `${quantity} × `, element("bdi", name), ` · ${SAID[state].split(".")[0]}`);
    button.addEventListener("click", () => follow(reference));
    return element("li", button);
  }));
  return orders[0];
}

/** The same for an order that is being followed: an error is shown there. */
const relist = () => list().catch(() => {});

/** Show how the order stands, and ask again until it is final. */
async function follow(reference) {
  const mine = ++watch;
  let failures = 0;
  while (mine === watch) {
    let pause;
    try {
      const [order, told] = await call("GET", `orders/${reference}/`);
      if (mine !== watch) return;
      if (failures) complain("");
      if (show(order)) relist();
      if (order.is_final) return;
      failures = 0;
      pause = told || 3;
    } catch (error) {
      if ([401, 404].includes(error.status)) return complain(error.message);
      if (mine === watch) complain("The shop does not answer at the moment. We go on asking; do not order again.");
      // Twice as long each time, a minute at most, unless the shop says for how long.
      pause = error.pause || Math.min(3 * 2 ** failures++, 60);
    }
    await sleep(pause);
  }
}

/** Show how the order stands; false if nothing has changed, which is not announced again then. */
function show(order) {
  const text = JSON.stringify(order);
  if ($("#order").dataset.shown === text) return false;
  $("#order").dataset.shown = text;
  $("#order").hidden = false;
  $("#order-name").replaceChildren(`${order.quantity} × `, element("bdi", order.name));
  $("#state").textContent = SAID[order.state];
  const facts = order.region ? [`Region: ${order.region}`] : [];
  const missing = order.quantity - order.delivered;
  if (order.is_final && missing) facts.push(`${order.delivered} of ${order.quantity} cards have arrived.`);
  if (order.is_reordered) facts.push("The missing cards were ordered again: see your newest order.");
  if (isAmount(order.to_pay_back)) facts.push(`We pay you back ${money.format(order.to_pay_back)}.`);
  if (isAmount(order.paid_back)) facts.push(`We have paid you back ${money.format(order.paid_back)}.`);
  $("#facts").replaceChildren(...facts.map(fact => element("li", fact)));
  $("#reveal").hidden = order.codes !== "ready";
  $("#reveal").dataset.reference = order.reference;
  $("#hint").hidden = order.codes === "none";
  $("#hint").textContent = order.codes === "ready"
    ? "They are shown once. Have something ready to keep them in."
    : "The codes were shown. If you do not have them, use the link in our e-mail.";
  $("#instructions").textContent = order.instructions;
  $("#codes").hidden = true;
  $("#codes").replaceChildren();
  return true;
}

async function reveal() {
  const {reference} = $("#reveal").dataset;
  revealKeys[reference] ??= crypto.randomUUID();
  const [cards] = await call("POST", `orders/${reference}/cards/`, {key: revealKeys[reference]});
  $("#codes").replaceChildren(...cards.map(({value, serial}) => {
    if (!value) return element("li", "This code cannot be shown at the moment. The shop has been notified.");
    const code = element("code", value);
    code.dir = "ltr";
    return element("li", code, serial ? element("small", " Serial ", element("bdi", serial)) : "");
  }));
  $("#reveal").hidden = true;
  $("#hint").textContent = "Save the codes now. They will not be shown again.";
  $("#codes").hidden = false;
  $("#codes").focus();
}

async function buy({offer, quantity}) {
  const {id, price} = offers.find(({id}) => id === Number(offer));
  const line = {offer: id, quantity: Number(quantity), price};
  // The same key until there is an answer, also if the page is loaded again: nothing is bought twice.
  let wanted = JSON.parse(sessionStorage.wanted ?? "{}");
  if (JSON.stringify(wanted.line) !== JSON.stringify(line)) wanted = {key: crypto.randomUUID(), line};
  sessionStorage.wanted = JSON.stringify(wanted);
  try {
    const [order] = await call("POST", "orders/", {key: wanted.key, ...line});
    delete sessionStorage.wanted;
    follow(order.reference);
  } catch (error) {
    // Not sold: for instance, the price has changed.
    if (error.status === 409) await fillShelf();
    throw error;
  }
}

async function logIn(who) {
  const [{token}] = await call("POST", "token/", who);
  sessionStorage.token = token;
  $("#login").reset();
  await enter();
}

function forget() {
  sessionStorage.clear();
  watch++;
  $("#order").hidden = true;
  $("#order").dataset.shown = "";
  $("#codes").replaceChildren();
  $("#orders ul").replaceChildren();
  enter();
}

onSubmit($("#login"), logIn);
onSubmit($("#buy"), buy);
$("#buy select").addEventListener("change", describe);
$("#reveal").addEventListener("click", event => press(event.target, reveal));
$("#leave").addEventListener("click", event => press(event.target, async () => {
  await call("DELETE", "token/");
  forget();
}));
enter();
