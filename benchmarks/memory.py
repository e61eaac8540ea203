"""The memory of a process that goes on settling orders: it must not grow."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.stage import accept, configure, say
from giftcards.engine.gateway import Gateway
from giftcards.engine.sweep import sweep
from giftcards.models import Order

# The provider in a process of its own: it keeps every order. It reads how many to make, and
# answers with their ids.
_PROVIDER = """
import json, sys
from giftcards.simulator import Call, Simulator
with Simulator(delay=(0, 0), rate_limit=0, opening_balance=10**9) as simulator:
    print(json.dumps(simulator.url), flush=True)
    line = {"productId": "507f1f77bcf86cd799439011", "typeId": "type_001", "quantity": 2}
    body = json.dumps(line).encode()
    place = Call("POST", "/v3/gift-cards/placeOrder", "", "bench", body, "127.0.0.1")
    for count in map(int, sys.stdin):
        known = set(simulator.orders)
        for _ in range(count):
            simulator.respond(place)
        print(json.dumps([i for i in simulator.orders if i not in known]), flush=True)
"""
BATCH = 500


def run(*, is_quick: bool) -> None:
    few, many = (500, 2_000) if is_quick else (1_000, 10_000)
    with subprocess.Popen(
        [sys.executable, "-c", _PROVIDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as provider:
        assert provider.stdin
        assert provider.stdout
        url = json.loads(provider.stdout.readline())
        configure(BASE_URL=url, REQUESTS_PER_MINUTE=6_000, API_KEY="bench")
        used: dict[int, float] = {}
        with Gateway() as gateway:
            for count in range(BATCH, many + 1, BATCH):
                provider.stdin.write(f"{BATCH}\n")
                provider.stdin.flush()
                accept(json.loads(provider.stdout.readline()))
                while Order.objects.filter(finalized_at=None).exists():
                    sweep(gateway)
                used[count] = resident()
        provider.stdin.close()
        provider.wait()
    say(
        f"after {few:,} orders {used[few]:.1f} MB, after {many:,} {used[many]:.1f} MB:"
        f" {used[many] / used[few]:.2f} × as much"
    )


def resident() -> float:
    gc.collect()
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else float("nan")
