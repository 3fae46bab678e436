#!/bin/bash
mkdir global
mkdir -p var/opt/cray
