"""The package behind train.py and infer.py, in reading order:

color.py    sRGB <-> CIE Lab, the scaled L and ab that the networks see, and the metrics
models.py   the generator G (ResNet18-U-Net) and the discriminator D (70x70 PatchGAN)
data.py     photos on disk, or a set by name -> one uint8 tensor -> split -> batches
photo.py    one photo file in, one photo file out
sets.py     groups and coco by name: lists of addresses -> data/<name>/
demo.py     procedural scenes for --data demo
damage.py   artificial ageing of L for --restore
runtime.py  what both scripts need: device, whole files, progress, errors made for people
"""
