"""Where the files of a dataset lie: a folder, a zip file, or S3; and which of them are pictures, with which labels.

`files.Files` is the interface that the three implement; `file_index.index_pictures` finds the pictures and labels.
"""
