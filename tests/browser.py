"""Headless Chromium for tests, spoken to in the DevTools protocol, and the server of the folder that it reads."""

import json
import shutil
import subprocess
import threading
import time
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-extensions "
    "--disable-background-networking --disable-component-update --disable-sync --remote-debugging-port=0"
).split()


def executable():
    """The Chromium of this machine, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def served(folder):
    """The address of a folder on this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def browser(folder):
    """A `Tab` of a browser that keeps its files in a folder, and ends afterwards."""
    from websockets.sync.client import connect

    with open(folder / "chromium.log", "wb") as log:
        process = subprocess.Popen([executable(), *FLAGS, f"--user-data-dir={folder}", "about:blank"], stderr=log)
    try:
        port, path = _port(folder / "DevToolsActivePort", process)
        with connect(f"ws://127.0.0.1:{port}{path}", max_size=None, proxy=None) as socket:
            yield Tab(socket)
    finally:
        process.terminate()
        process.wait(30)


def _port(file, process, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if file.exists() and len(lines := file.read_text().split()) == 2:
            return lines
        time.sleep(0.05)
    raise TimeoutError(f"Chromium has not started, see {file.with_name('chromium.log')}")


class Tab:
    """One page: what is called with a method of the protocol, and the events that have come."""

    def __init__(self, socket):
        self.socket, self.number, self.session, self.events = socket, 0, None, []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method, **params):
        """The result of a method."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        self.socket.send(json.dumps(message | ({"sessionId": self.session} if self.session else {})))
        while (reply := json.loads(self.socket.recv(60))).get("id") != self.number:
            self.events.append(reply)
        if "error" in reply:
            raise RuntimeError(f"{method}: {reply['error']}")
        return reply["result"]

    def evaluate(self, expression):
        """The value of an expression of JavaScript, which may be a promise."""
        result = self("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(json.dumps(result["exceptionDetails"], indent=1))
        return result["result"].get("value")

    def wait(self, condition, seconds=60):
        """Waits until an expression of JavaScript is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(condition):
            if time.monotonic() > end:
                raise TimeoutError(condition)
            time.sleep(0.02)

    def of(self, method):
        """The parameters of the events of a kind, so far."""
        return [event["params"] for event in self.events if event.get("method") == method]
