"""Layers by spatial rank: 2 for images, 3 for volumes."""

import keras

from trainer.models.convolution import Convolution3D

CONVOLUTION = {2: keras.layers.Conv2D, 3: Convolution3D}
TRANSPOSED_CONVOLUTION = {2: keras.layers.Conv2DTranspose, 3: keras.layers.Conv3DTranspose}
MAX_POOLING = {2: keras.layers.MaxPooling2D, 3: keras.layers.MaxPooling3D}
AVERAGE_POOLING = {2: keras.layers.AveragePooling2D, 3: keras.layers.AveragePooling3D}
UPSAMPLING = {2: keras.layers.UpSampling2D, 3: keras.layers.UpSampling3D}
ZERO_PADDING = {2: keras.layers.ZeroPadding2D, 3: keras.layers.ZeroPadding3D}
CROPPING = {2: keras.layers.Cropping2D, 3: keras.layers.Cropping3D}

TRANSPOSED = tuple(TRANSPOSED_CONVOLUTION.values())
CONVOLUTIONS = (*CONVOLUTION.values(), *TRANSPOSED)
