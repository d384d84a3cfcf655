"""A headless Chromium, driven by the DevTools protocol over a pipe: no package, no port.

https://chromedevtools.github.io/devtools-protocol: messages are JSON, each ended by a zero byte.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATH = next(filter(None, map(shutil.which, NAMES)), None)
PATIENCE_SECONDS = 60.0
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--remote-debugging-pipe", "--no-first-run", "--disable-extensions",
    "--disable-component-update", "--disable-background-networking",
    # A page that the browser takes for hidden draws no frames, and a screenshot never comes.
    "--disable-background-timer-throttling", "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
)  # fmt: skip


class Browser:
    """A page in a browser process of its own, and everything it complained of or asked for."""

    def __init__(self, profile):
        ours, self._write = os.pipe()  # the browser reads commands from file 3
        self._read, theirs = os.pipe()  # and answers to file 4
        words = [PATH, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        shell = f'exec 3<&{ours} 4>&{theirs}; exec "$0" "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, *words], pass_fds=(ours, theirs),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(ours)
        os.close(theirs)
        self._bytes, self._count, self._session = b"", 0, None
        self.complaints, self.requests = [], []
        attached = self.call("Target.attachToTarget", targetId=self._target(), flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def _target(self):
        """The page that the browser opens with, which is in front; it takes a moment."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            for target in self.call("Target.getTargets")["targetInfos"]:
                if target["type"] == "page":
                    return target["targetId"]
            time.sleep(0.05)
        raise AssertionError("the browser opens no page")

    def call(self, method, **params):
        """The result of a command; events on the way are kept."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._message()).get("id") != self._count:
            self._keep(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _message(self):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while b"\0" not in self._bytes:
            ready, _, _ = select.select([self._read], [], [], deadline - time.monotonic())
            assert ready, "the browser does not answer"
            more = os.read(self._read, 1 << 20)
            assert more, "the browser is gone"
            self._bytes += more
        text, self._bytes = self._bytes.split(b"\0", 1)
        return json.loads(text)

    def _keep(self, event):
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(params["exceptionDetails"])
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(params["args"])
        elif method == "Log.entryAdded":
            self.complaints.append(params["entry"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def open(self, path, *, width=1100, height=900, dark=False, touch=False):
        """Loads a file as a screen of that size and taste shows it."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=touch)  # fmt: skip
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)
        self.complaints, self.requests = [], []
        self.call("Page.navigate", url=path.as_uri())
        deadline = time.monotonic() + PATIENCE_SECONDS
        there = f"location.href === {json.dumps(path.as_uri())} && document.readyState"
        while self.evaluate(there) != "complete":
            assert time.monotonic() < deadline, "the page does not load"

    def evaluate(self, expression):
        """The value of an expression in the page, or what it promises."""
        found = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def centre(self, selector):
        """Where an element is on the screen, scrolled to where it can be seen."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{element}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        # The scroll's event comes with the next frame, and would come between what follows.
        self.evaluate("new Promise(d => requestAnimationFrame(() => requestAnimationFrame(d)))")
        return self.evaluate(
            f"(b => [b.x + b.width / 2, b.y + b.height / 2])({element}.getBoundingClientRect())"
        )

    def hover(self, selector):
        x, y = self.centre(selector)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector):
        x, y = self.centre(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def tap(self, selector):
        x, y = self.centre(selector)
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def press(self, key, text=None):
        down = {"key": key, "code": key} | ({"text": text} if text else {})
        codes = {"Enter": 13, "ArrowRight": 39, "ArrowLeft": 37, "Escape": 27, "Tab": 9}
        down["windowsVirtualKeyCode"] = codes[key]
        self.call("Input.dispatchKeyEvent", type="keyDown", **down)
        self.call("Input.dispatchKeyEvent", type="keyUp", **down)

    def screenshot(self, path, *, whole=False):
        """A PNG of what is on the screen, or of the whole page."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self):
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)
