"""A child process for tests, with a command for each thing that a child may do."""

from __future__ import annotations

import logging
import os
import subprocess
import time

from voxlive.processes.process import exiting_with_parent, read_messages, run_child


def serve(end, sender):
    for batch in read_messages(end):
        for command in batch:
            match command:
                case "log":
                    logging.getLogger("there").error("of the child's %s", "own")
                case "print":
                    os.write(2, b"an output\n")
                case "crash":
                    sender.put("a last message")
                    sender.flush()
                    os._exit(3)
                case "grandchild":
                    process = subprocess.Popen(["sleep", "600"])
                    sender.put(process.pid)
                case "hang":
                    return lambda: time.sleep(600)
                case "load":
                    with exiting_with_parent(end):
                        sender.put("loading")
                        time.sleep(600)
                case "about":
                    sender.put((os.nice(0), os.getpgid(0), os.environ.get("ABOUT")))
                case _:
                    sender.put(command)
    return lambda: sender.put("lost")


if __name__ == "__main__":
    run_child(serve)
