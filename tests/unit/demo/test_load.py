import json
import subprocess
import sys
import time

from demo import load

CONFIG = {
    "url": "http://127.0.0.1:9",  # nothing listens: every request fails after its tries, and is counted
    "feedbackUrl": "http://127.0.0.1:9",
    "token": "t",
    "model": "m",
    "feedbackShare": 0.3,
    "wrongShare": 0.02,
    "seed": 1,
    "pools": {"old": [["a question", "label"]]},
}


def test_a_client_that_is_stopped_while_it_sends_ends_well_with_all_its_counts() -> None:
    """Its loop once took the stop for a phase, and died of the rate that a stop hasn't."""
    with subprocess.Popen(
        [sys.executable, "-u", load.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        for command in (CONFIG, {"phase": "steady", "rate": 50, "mix": {"old": 1.0}}):
            client.stdin.write(json.dumps(command) + "\n")
            client.stdin.flush()
        seen: dict[str, int] = {}
        while seen.get("sent", 0) < 20:
            seen = json.loads(client.stdout.readline())["byPhase"].get("steady", {})
        time.sleep(0.1)
        client.stdin.write(json.dumps({"stop": True}) + "\n")
        client.stdin.flush()
        last = client.stdout.read().splitlines()[-1]
        assert client.wait(timeout=30) == 0
    counts = json.loads(last)["byPhase"]["steady"]
    assert counts["failed"] == counts["sent"] >= seen["sent"]
    assert counts["refused"] == (1 + len(load.CONNECT_PAUSES)) * counts["sent"]
