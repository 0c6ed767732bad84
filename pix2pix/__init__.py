"""The package behind train.py and infer.py, in reading order:

color.py     sRGB <-> CIE Lab, the scaling that the networks see, colorfulness
models.py    the generator G (ResNet18-U-Net), the discriminator D (70x70 PatchGAN), the EMA
train.py     (beside this package) hyperparameters, the two steps, the loop of two phases
data.py      photos on disk, or a set by name -> one uint8 tensor -> split -> batches
metrics.py   PSNR, the scores of validation photos, samples
run.py       the log of one training run, and everything that is saved of it
curves.py    curves.png, the figures of the log over the epochs
infer.py     (beside this package) color one photo at full resolution, or a folder
photo.py     one photo file in, one photo file out
metadata.py  what a photo file says about itself: EXIF, XMP, IPTC, comments
folders.py   the photos in a folder, and what is left out there
options.py   train.py's options and their checks
weights.py   checkpoint.pt, generator.pt and ImageNet's weights
blend.py     (a program) mixes two generators: pale after L1, bold after the GAN phase
film.py      what old film would have seen, for --old-film
repair.py    all of repairing: --restore of train.py, --repair of infer.py
damage.py    artificial damage for repair.py
sets.py      groups and coco by name, downloaded into data/<name>/
demo.py      procedural scenes for --data demo
device.py    device, precision, memory, the processes of torchrun
files.py     files that appear whole or not at all
terminal.py  one-line errors, exit codes, the progress line
"""
