// Browsers start no worker for a page that is opened from the disk: the script of the search runs in a hidden frame then.
if (location.protocol === "file:") {
  window.Worker = window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      this.started = new Promise((resolve) => {
        frame.onload = () => {
          const inner = frame.contentWindow;
          inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
          const script = inner.document.createElement("script");
          script.onload = () => resolve(inner);
          script.src = url;
          inner.document.head.append(script);
        };
      });
      document.body.append(frame);
    }
    async postMessage(data) {
      const inner = await this.started;
      inner.dispatchEvent(new inner.MessageEvent("message", { data }));
    }
  };
}
