"""What cgrouparch does, by the code of its port to Python 3 (k3cgrouparch). Told on standard input what to do, as JSON; prints the
CPU time of each pass in nanoseconds.

    {"do": "tick" | "make" | "tasks", "tree": document, "cgroup_dir": directory with cpu and blkio, "passes": number, ...}
"""

import json
import sys
import time

told = json.load(sys.stdin)
sys.path.insert(0, told["site"])

from k3cgrouparch import account, cgroup_manager  # noqa: E402


class Memory:
    """In Redis' place: what a slot costs there is no part of this."""

    def set(self, key, value, ex):
        self.last = value


context = {
    "arch_conf": {"value": told["tree"]}, "cgroup_dir": told["cgroup_dir"], "redis_client": Memory(), "redis_prefix": "bench",
    "redis_expire_time": 300, "get_cgroup_pid_file": lambda name: told.get("pid_files", {}).get(name),
}  # fmt: skip


def make():
    cgroup_manager.build_all_subsystem_cgroup_arch(context)
    cgroup_manager.set_cgroup(context)


WORK = {"tick": lambda: account._run(context, 0), "make": make, "tasks": lambda: cgroup_manager.set_cgroup(context)}

spent = []
for _ in range(told["passes"]):
    time.sleep(told.get("pause", 1))
    began = time.process_time_ns()
    WORK[told["do"]]()
    spent.append(time.process_time_ns() - began)
print(json.dumps(spent))
