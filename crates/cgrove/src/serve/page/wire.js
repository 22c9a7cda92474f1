// The WebSocket: requests with replies, subscriptions that survive reconnects.

const PAUSES = [500, 1000, 2000, 5000];

export class Wire {
  // `told` gets every message of a subscription, `state` "live" or why not.
  constructor(told, state) {
    this.told = told;
    this.state = state;
    this.waiting = new Map();
    this.wanted = new Map();
    this.number = 0;
    this.tries = 0;
    this.connect();
  }

  connect() {
    const secure = location.protocol === "https:" ? "wss:" : "ws:";
    this.socket = new WebSocket(`${secure}//${location.host}/ws`);
    this.socket.onopen = () => {
      this.tries = 0;
      this.state("live");
      for (const args of this.wanted.values()) this.send("subscribe", args, "told");
    };
    this.socket.onmessage = (event) => this.receive(JSON.parse(event.data));
    this.socket.onclose = () => {
      for (const { fail } of this.waiting.values()) fail(new Error("the connection was lost"));
      this.waiting.clear();
      const pause = PAUSES[Math.min(this.tries++, PAUSES.length - 1)];
      this.state("away");
      setTimeout(() => this.connect(), pause);
    };
  }

  receive(message) {
    if (message.subscription) return this.told(message);
    const waiting = this.waiting.get(message.id);
    if (!waiting) {
      if (message.error) this.state(message.error);
      return;
    }
    this.waiting.delete(message.id);
    if (message.error) return waiting.fail(new Error(message.error));
    delete message.id;
    waiting.done(message);
  }

  send(cmd, args, id) {
    this.socket.send(JSON.stringify({ cmd, args, id }));
  }

  ask(cmd, args = {}) {
    return new Promise((done, fail) => {
      if (this.socket.readyState !== WebSocket.OPEN) return fail(new Error("not connected"));
      const id = ++this.number;
      this.waiting.set(id, { done, fail });
      this.send(cmd, args, id);
    });
  }

  subscribe(args) {
    this.wanted.set(args.to, args);
    if (this.socket.readyState === WebSocket.OPEN) this.send("subscribe", args, "told");
  }
}
