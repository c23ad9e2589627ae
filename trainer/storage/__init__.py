"""Files and objects: on the disk, gs://, s3:// and az://."""
