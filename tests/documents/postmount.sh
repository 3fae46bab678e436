#!/bin/bash
ln -s global/scratch scratch
