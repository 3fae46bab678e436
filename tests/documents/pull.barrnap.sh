shifterimg pull quay.io/biocontainers/barrnap:0.9--3
