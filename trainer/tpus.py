"""TPUs: connecting to one, and one clear line where that cannot be."""

import tensorflow as tf

from trainer import roster
from trainer.errors import InputError


def connect(name: str) -> tf.distribute.Strategy:
    """Connects to the TPU of that name (`local`: of this machine) and initialises it.

    Raises:
        InputError: there is none.
    """
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        if name != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise InputError(
            f"--strategy=tpu --tpu={name} finds no TPU ({roster.shortened(error)}); run on a TPU "
            "VM with the tensorflow-tpu package, or name another --strategy."
        ) from error
    return tf.distribute.TPUStrategy(resolver)
