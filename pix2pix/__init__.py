"""The package behind train.py and infer.py, in reading order:

color.py    sRGB <-> CIE Lab, and the scaled L and ab that the networks see
models.py   the generator G (ResNet18-U-Net) and the discriminator D (70x70 PatchGAN)
data.py     photos on disk -> one uint8 tensor -> split -> batches
photo.py    one photo file in, one photo file out
demo.py     procedural scenes for --data demo
metrics.py  ab error, PSNR, colorfulness
runtime.py  what both scripts need: device, whole files, progress, errors made for people
"""
