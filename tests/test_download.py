"""Downloads: mirrors that fail in every way, and what is in the cache afterwards.

No test reaches the network: the mirrors are a server on this machine, or an address without one.
"""

from __future__ import annotations

import gzip
import http.server
import json
import os
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time

import pytest
from toy_mnist import check, put

from tinyattn.data import DataError, DownloadError, download, load, load_mnist, mnist


class Mirror(http.server.BaseHTTPRequestHandler):
    """Serves `server.contents` gzipped under the first folder's name as the way it behaves."""

    def do_GET(self):
        _, way, name = self.path.split("/")
        self.server.asked.append(self.path)
        packed = gzip.compress(self.server.contents[name.removesuffix(".gz")])
        getattr(self, way)(packed)

    def answer(self, body, status=200, length=None, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def good(self, body):
        self.answer(body)

    def unpacked_on_the_way(self, body):
        self.answer(body, Content_Encoding="gzip")

    def slow(self, body):  # alive, and longer under way than a silence may last
        self.answer(b"", length=len(body))
        for start in range(0, len(body), 2000):
            time.sleep(download.SILENCE / 2)
            self.wfile.write(body[start : start + 2000])

    def wrong(self, body):
        self.answer(gzip.compress(gzip.decompress(body)[:-1] + b"!"))

    def truncated(self, body):
        self.answer(body[:-5], length=len(body))

    def cut(self, body):
        self.answer(body[:-5])

    def page(self, body):
        self.answer(b"<html>Please log in</html>")

    def redirect(self, body):
        self.answer(b"", 302, Location="/page/x")

    def redirect_to_http(self, body):
        self.answer(b"", 301, Location=f"http://localhost:{self.server.server_port}/good/x")

    def missing(self, body):
        self.answer(b"no such thing", 404)

    def forbidden(self, body):
        self.answer(b"", 403)

    def broken(self, body):
        self.answer(b"", 500)

    def endless(self, body):
        self.answer(bytes(1_000_000))

    def bomb(self, body):  # 22 kB that unpack to 5 MB on the way
        self.answer(gzip.compress(bytes(5_000_000), 1), Content_Encoding="gzip")

    def reset(self, body):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def silent(self, body):
        self.server.over.wait(20)

    def stall(self, body):
        self.answer(body[:5], length=len(body))
        self.server.over.wait(20)

    def drip(self, body):
        self.answer(b"", length=len(body))
        while not self.server.over.wait(0.1):
            self.wfile.write(bytes(1100))

    def log_message(self, *args):
        pass


class QuietServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # a client that gives up is part of the tests


@pytest.fixture
def server(toy, monkeypatch):
    with QuietServer(("127.0.0.1", 0), Mirror) as server:
        server.contents, server.asked, server.over = toy, [], threading.Event()
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        server.use = lambda *ways: monkeypatch.setattr(
            mnist, "MIRRORS", tuple(f"http://127.0.0.1:{server.server_port}/{way}/" for way in ways)
        )
        yield server
        server.over.set()
        server.shutdown()


def cached(tmp_path):
    return sorted(str(p.relative_to(tmp_path / "cache")) for p in (tmp_path / "cache").rglob("*.*"))


def test_a_download_is_cached(server, toy, tmp_path):
    server.use("good")
    lines = []
    check(load_mnist(say=lines.append), toy)
    assert len(lines) == len(server.asked) == 4
    assert "/good/train-images-idx3-ubyte.gz to " in lines[0]
    assert cached(tmp_path) == sorted(f"MNIST/raw/{name}.gz" for name in toy)
    check(load_mnist(), toy)
    assert len(server.asked) == 4  # nothing was fetched a second time


def test_a_damaged_cache_file_is_downloaded_again(server, toy, tmp_path):
    server.use("good")
    folder = put(toy, tmp_path / "cache/MNIST/raw", packed=True)
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(b"half a down")
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    check(load_mnist(), toy)
    check(load_mnist(download=False), toy)
    assert sorted(server.asked) == ["/good/t10k-images-idx3-ubyte.gz", "/good/train-labels-idx1-ubyte.gz"]


FAULTS = {
    "wrong": "is not MNIST's: the SHA-256",
    "truncated": "ChunkedEncodingError|cut short",
    "cut": "cut short",
    "page": "is not an IDX file: it starts with 3c 68 74 6d",
    "redirect": "HTTP status 302, a redirect",
    "redirect_to_http": "HTTP status 301, a redirect",
    "missing": "HTTP status 404",
    "forbidden": "HTTP status 403",
    "broken": "HTTP status 500",
    "endless": "more than",
    "bomb": "more than",
    "reset": "ConnectionError",
    "silent": "no byte for|ReadTimeout",
    "stall": "no byte for|ConnectionError",
    "drip": "slower than",
}


@pytest.mark.parametrize("way", FAULTS)
def test_a_faulty_mirror(server, toy, tmp_path, monkeypatch, way):
    monkeypatch.setattr(download, "SILENCE", 0.3)
    monkeypatch.setattr(download, "TRIAL", 0.3)
    monkeypatch.setattr(download, "SLOWEST", 100_000)
    server.use(way)
    with pytest.raises(DownloadError, match=FAULTS[way]) as error:
        load_mnist()
    assert len(server.asked) == 1
    assert cached(tmp_path) == []
    for part in ("/train-images-idx3-ubyte.gz", str(tmp_path / "cache/MNIST/raw"), "TINYATTN_DATA"):
        assert part in str(error.value)
    for file in mnist.FILES:
        assert f"{file.name} (SHA-256 {file.sha256})" in str(error.value)
    server.use(way, "good")
    check(load_mnist(), toy)  # the other mirror has it
    assert cached(tmp_path) == sorted(f"MNIST/raw/{name}.gz" for name in toy)
    assert sum(f"/{way}/" in path for path in server.asked) == 2  # and is asked first from then on


def test_a_mirror_that_unpacks_is_kept_unpacked(server, toy, tmp_path):
    server.use("unpacked_on_the_way")
    check(load_mnist(), toy)
    assert sorted(p.name for p in (tmp_path / "cache/MNIST/raw").iterdir()) == sorted(toy)
    check(load_mnist(download=False), toy)


def test_a_slow_mirror_is_waited_for(server, toy, monkeypatch):
    monkeypatch.setattr(download, "SILENCE", 0.4)
    server.use("slow")
    start = time.monotonic()
    check(load_mnist(), toy)
    assert time.monotonic() - start > 4 * download.SILENCE


def test_ten_threads_download_at_once(server, toy, tmp_path):
    server.use("good")
    results = []
    threads = [threading.Thread(target=lambda: results.append(load_mnist())) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 10
    for result in results:
        check(result, toy)
    assert cached(tmp_path) == sorted(f"MNIST/raw/{name}.gz" for name in toy)


TEN = """
import json, os, pathlib, sys
import pooch, requests  # once, before the processes part
from tinyattn.data import download, load_mnist, mnist
cache, mirror, files = json.loads(sys.argv[1])
download.SCHEME = "http://"
mnist.MIRRORS = (mirror,)
mnist.FILES = tuple(mnist.File(name, tuple(shape), sha256) for name, shape, sha256 in files)
mnist.cache_folder = lambda: pathlib.Path(cache)
children = []
for _ in range(10):
    child = os.fork()
    if child == 0:
        images = load_mnist().train_images
        os._exit(0 if images.shape == (50, 16, 16) and images.any() else 1)
    children.append(child)
sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children))
"""


def test_ten_processes_download_at_once(server, toy, tmp_path):
    files = [(file.name, file.shape, file.sha256) for file in mnist.FILES]
    arguments = json.dumps([str(tmp_path / "cache"), f"http://127.0.0.1:{server.server_port}/good/", files])
    assert subprocess.run([sys.executable, "-c", TEN, arguments], timeout=60).returncode == 0
    assert len(server.asked) > 4  # they did not wait for one another
    assert cached(tmp_path) == sorted(f"MNIST/raw/{name}.gz" for name in toy)
    check(load_mnist(download=False), toy)


def test_only_https_is_asked(server, toy, monkeypatch):
    assert all(mirror.startswith("https://") for mirror in mnist.MIRRORS)
    server.use("good")
    monkeypatch.setattr(download, "SCHEME", "https://")  # as it is outside of these tests
    with pytest.raises(DownloadError, match="only https:// is allowed"):
        load_mnist()
    assert server.asked == []


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_a_certificate_that_nobody_vouches_for(server, toy, tmp_path, monkeypatch):
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=127.0.0.1 -keyout key -out certificate"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    monkeypatch.setattr(download, "SCHEME", "https://")
    monkeypatch.setattr(mnist, "MIRRORS", (f"https://127.0.0.1:{server.server_port}/good/",))
    with pytest.raises(DownloadError, match=r"ubyte\.gz: SSLError"):
        load_mnist()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "certificate"))
    with pytest.raises(DownloadError, match="SSLError"):  # vouched for, but not made out to this name
        load_mnist()
    assert server.asked == []
    assert cached(tmp_path) == []


@pytest.mark.parametrize("way", ["slow", "silent"])
def test_all_downloads_together_end_in_time(server, toy, tmp_path, monkeypatch, way):
    monkeypatch.setattr(mnist, "LONGEST", 0.5)
    server.use(way, "silent")
    start = time.monotonic()
    with pytest.raises(DownloadError, match="the time limit for all downloads is reached"):
        load_mnist()
    assert 0.5 <= time.monotonic() - start < 4
    assert cached(tmp_path) == []


def test_what_a_killed_download_left_is_removed(server, toy, tmp_path):
    server.use("good")
    folder = put(toy, tmp_path / "cache/MNIST/raw", packed=True)
    name = "t10k-images-idx3-ubyte.gz"
    (folder / name).unlink()
    for left, age in ((f".{name}.0000.tmp", 4000), (f".{name}.1111.tmp", 10)):
        (folder / left).write_bytes(b"half a down")
        os.utime(folder / left, (time.time() - age,) * 2)
    check(load_mnist(), toy)
    assert sorted(path.name for path in folder.glob(".*")) == [f".{name}.1111.tmp"]  # which may be in use


def test_an_unwritable_cache_is_a_warning(server, toy, tmp_path):
    server.use("good")
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="MNIST is not cached"):
        check(load_mnist(), toy)


def nobody():
    """A port of this machine that refuses connections."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture
def offline(toy, monkeypatch):
    """Sets the mirrors to two addresses: refused, no such host, or a host that never answers."""
    listeners = []

    def go(way):
        if way == "refused":
            addresses = [f"127.0.0.1:{nobody()}"] * 2
        elif way == "swallowed":  # the kernel accepts, nobody answers
            listeners.extend(socket.create_server(("127.0.0.1", 0)) for _ in range(2))
            addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in listeners]
        else:
            real = socket.getaddrinfo

            def no_names(host, *args, **kwargs):
                if host.endswith(".invalid"):
                    time.sleep(60 if way == "slow name server" else 0)
                    raise socket.gaierror(-2, "Name or service not known")
                return real(host, *args, **kwargs)

            monkeypatch.setattr(socket, "getaddrinfo", no_names)
            addresses = ["one.invalid", "two.invalid"]
        monkeypatch.setattr(mnist, "MIRRORS", tuple(f"http://{each}/" for each in addresses))

    yield go
    for listener in listeners:
        listener.close()


OFFLINE = ["refused", "no name server", "slow name server", "swallowed"]


@pytest.mark.parametrize("way", OFFLINE)
def test_offline_download_ends_soon(offline, tmp_path, monkeypatch, way):
    assert all(mirror.startswith("https://") for mirror in mnist.MIRRORS)
    assert len(mnist.MIRRORS) * download.SILENCE <= 12  # seconds, of the 15 that are allowed
    monkeypatch.setattr(download, "SILENCE", 0.5)
    offline(way)
    start = time.monotonic()
    with pytest.raises(DownloadError):
        load_mnist()
    assert time.monotonic() - start < 6
    assert cached(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("way", OFFLINE)
def test_offline_download_ends_within_15_seconds(offline, way):
    offline(way)
    start = time.monotonic()
    with pytest.raises(DownloadError):
        load_mnist()
    assert time.monotonic() - start < 15


def test_offline_load_auto_warns_and_returns_digits(offline, monkeypatch, tmp_path):
    offline("refused")
    with pytest.warns(UserWarning, match="^Using digits .scikit-learn, not MNIST.: MNIST could not be downloaded"):
        found = load()
    assert found.name == "digits (scikit-learn, not MNIST)"
    assert found.note.startswith("MNIST could not be downloaded (http://127.0.0.1:")
    assert "SHA-256" not in found.note
    assert len(found.train_images) == 1442
    with pytest.raises(DataError, match="could not be downloaded"):
        load("mnist")
    with pytest.raises(DataError, match=r"data_dir .* lacks"):  # who names a folder wants that folder
        load("auto", tmp_path)
    monkeypatch.setenv("TINYATTN_DATA", str(tmp_path))
    with pytest.warns(UserWarning, match=f"TINYATTN_DATA {tmp_path} lacks"):
        assert load().name == "digits (scikit-learn, not MNIST)"
