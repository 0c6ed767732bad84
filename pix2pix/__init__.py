"""The package behind train.py and infer.py. In the order to read them:

color.py     sRGB <-> CIE Lab, and the scaling that the networks see
models.py    the generator G (ResNet18-U-Net) and the discriminator D (70x70 PatchGAN)
train.py     (beside this package) the two steps, an epoch, the loop of two phases
metrics.py   ab error, PSNR, colorfulness, and all of them for held-out photos
run.py       what one training is made of, and all that is saved of it
data.py      photos on disk, or a set by name -> one uint8 tensor -> split -> batches
infer.py     (beside this package) colour one photo at full resolution, or a folder
photo.py     one photo file in, one photo file out
damage.py    artificial ageing of L for --restore, and what a batch becomes for the networks
sets.py      groups and coco by name: one record a set -> data/<name>/
demo.py      procedural scenes for --data demo
device.py    device, precision, memory, processes of torchrun, seeds
files.py     files that appear whole or not at all; saving and loading dicts
terminal.py  errors made for people, exit codes, the progress line
"""
