"""Entry point of training: `python -m trainer.task --help`."""

from trainer import cli, config
from trainer.distributed import vertex
from trainer.storage import files


def main(job: config.Job) -> None:
    """Runs the job; TensorFlow is imported only after the flags have been checked."""
    cli.set_verbosity(job.run.verbosity)
    with cli.importing():
        from trainer import loop

    files.register_stores(job.data.data_dir, job.run.run_dir, job.run.init_from)
    loop.train(job)


if __name__ == "__main__":
    cli.run(config.Job, main, defaults=vertex.defaults(), is_job=True)
