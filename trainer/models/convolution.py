"""Convolution of volumes that may be less deep than the kernel, as at the bottom of a network."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("trainer")
class Convolution3D(keras.layers.Conv3D):
    """Keras' Conv3D of [B, D, H, W, C], with the right gradient in bfloat16 whatever D is.

    What oneDNN computes on a CPU as the gradient of a bfloat16 kernel is wrong, or not finite,
    where D is less than the kernel's depth and more than 1 (TensorFlow 2.21). Planes of zeros at
    the end, of which "same" padding has some anyway, change no other result. They are appended, not
    padded: in a graph TensorFlow makes one operation of a padding and a convolution, which forgets
    that "same" is to pad as well. As many as whole strides, they leave the kernel's places as they
    are.
    """

    def call(self, inputs):
        """Returns [B, D / stride, H / stride, W / stride, filters]."""
        depth, stride = inputs.shape[1], self.strides[0]
        if self.compute_dtype != "bfloat16" or self.padding != "same":
            return super().call(inputs)
        if depth is None or depth >= self.kernel_size[0]:
            return super().call(inputs)
        missing = -(-(self.kernel_size[0] - depth) // stride) * stride
        planes = [inputs] + [tf.zeros_like(inputs[:, :1])] * missing
        return super().call(tf.concat(planes, axis=1))[:, : -(-depth // stride)]
