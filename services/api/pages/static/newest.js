// Work on the newest of many requests: one at a time, and those in between are left out.

export class Newest {
  /** `work(value, signal)` does the work of one request; the signal is aborted when a newer one waits. */
  constructor(work) {
    this.work = work;
  }

  /** Do this next. */
  ask(value) {
    this.next = { value };
    if (this.running) this.running.abort();
    else this.run();
  }

  async run() {
    while (this.next) {
      const { value } = this.next;
      this.next = null;
      this.running = new AbortController();
      await this.work(value, this.running.signal);
    }
    this.running = null;
  }
}

/** A function that calls `work` once it was not called for some milliseconds. */
export function afterQuiet(milliseconds, work) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), milliseconds);
  };
}
