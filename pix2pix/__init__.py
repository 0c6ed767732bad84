"""The package behind train.py and infer.py, in reading order:

color.py     sRGB <-> CIE Lab, the scaling that the networks see, colorfulness
models.py    the generator G (ResNet18-U-Net) and the discriminator D (70x70 PatchGAN)
train.py     (beside this package) defaults and options, the two steps, the loop of two phases
metrics.py   PSNR, and the scores of validation photos
data.py      photos on disk, or a set by name -> one uint8 tensor -> split -> batches -> examples
run.py       one training run: networks, EMA, optimizers, log; saving and resuming
infer.py     (beside this package) color one photo at full resolution, or a folder
photo.py     one photo file in, one photo file out
metadata.py  what a photo file says about itself: EXIF, XMP, IPTC, comments
damage.py    artificial damage of L, only for --restore
sets.py      groups by name, downloaded into data/groups/
demo.py      procedural scenes for --data demo
device.py    device, precision, memory, the processes of torchrun
files.py     files that appear whole or not at all; loading checkpoints and generators
terminal.py  one-line errors, exit codes, the progress line
"""
