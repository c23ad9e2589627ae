"""Signals become a request that the job reads when it can."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from trainer.distributed import preemption


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_request_and_nothing_else(number):
    before = signal.getsignal(number)
    with preemption.listening() as request:
        assert not request
        os.kill(os.getpid(), number)
        assert request
        assert request.name == signal.Signals(number).name
        assert 0 <= request.age_seconds < 300
    assert signal.getsignal(number) is before


def test_a_second_interrupt_ends_the_process_at_once():
    code = (
        "import os, signal\nfrom trainer.distributed import preemption\n"
        "with preemption.listening():\n"
        "  for _ in range(2): os.kill(os.getpid(), signal.SIGINT)\n"
        "  print('still here')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (result.returncode, result.stdout) == (-signal.SIGINT, b"")


def test_a_second_sigterm_waits_like_the_first():
    with preemption.listening() as request:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert request.name == "SIGTERM"


def test_in_another_thread_nothing_is_changed():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def listen():
        with preemption.listening() as request:
            seen.append((bool(request), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


def test_what_a_job_says_last_names_the_signal_or_that_another_worker_got_it():
    with preemption.listening() as request:
        other = request.stopped(7)
        os.kill(os.getpid(), signal.SIGTERM)
        own = request.stopped(7)
    assert str(other) == (
        "Stopped at step 7, as another worker was asked to; the checkpoint is complete."
    )
    assert str(own).startswith("Stopped by SIGTERM at step 7; the checkpoint was complete ")
    assert str(own).endswith(" s after the signal. The same command resumes.")


def test_an_interrupt_waits_for_the_end_of_what_is_written():
    done = []

    @preemption.uninterrupted()
    def write():
        os.kill(os.getpid(), signal.SIGINT)
        done.append("written")

    with pytest.raises(KeyboardInterrupt):
        write()
    assert done == ["written"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_that_another_thread_receives_waits_for_a_process_that_is_started():
    done = []
    ending = threading.Event()
    other = threading.Thread(target=ending.wait)  # Ctrl-C is blocked in this thread alone
    other.start()

    @preemption.starting_processes()
    def start():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        blocked = "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))"
        done.append(subprocess.check_output([sys.executable, "-c", blocked], text=True))

    try:
        with pytest.raises(KeyboardInterrupt):
            start()
    finally:
        ending.set()
        other.join()
    assert [text.strip() for text in done] == [str({signal.SIGINT})]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_the_second_interrupt_of_a_command_ends_it_at_once():
    code = (
        "import os, signal\nfrom trainer.distributed import preemption\n"
        "with preemption.interruptible(lambda: print('said', flush=True)):\n"
        "  try: os.kill(os.getpid(), signal.SIGINT)\n"
        "  finally: os.kill(os.getpid(), signal.SIGINT)\n"
        "  print('still here')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (result.returncode, result.stdout) == (-signal.SIGINT, b"said\n")


def test_an_error_that_an_interrupt_causes_is_that_interrupt():
    said = []

    def stop():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("initialization failed") from None

    with pytest.raises(KeyboardInterrupt), preemption.interruptible(lambda: said.append(1)):
        stop()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert said == [1]
    with pytest.raises(ImportError), preemption.interruptible(lambda: said.append(2)):
        raise ImportError
    assert said == [1]
