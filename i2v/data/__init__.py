"""Every source of frames and masks. No other package of the project reads a file format.

files.py        file lists, JSON, folders without system files, the files of samples
images.py       one image file or PIL image as 8-bit RGB
frame_order.py  the order of frames by their names
frames.py       videos as sequences of frames: folders, arrays, iterators, live; `open_frames`
video_file.py   compressed videos
mask_files.py   an image with masks or labels, read and written
annotations.py  the masks of a video: label images, a folder per object, run-length encodings
instances.py    SA-1B's JSON files
masklets.py     SA-V's JSON files
rle.py          COCO's run-length encoding
scores.py       the table of scores that the evaluator writes
sound.py        the sound of a video file
"""
