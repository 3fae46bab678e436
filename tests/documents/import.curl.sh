curl -d '{"filepath":"/tmp/myimage.squashfs","format":"squashfs"}' \
  -H "authentication: $(munge -n)" \
  http://imagegw:5000/api/doimport/mycluster/custom/load_test:v1/
