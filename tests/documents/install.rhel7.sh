cp /etc/shifter/imagemanager.json.example /etc/shifter/imagemanager.json
cp /etc/shifter/udiRoot.conf.example /etc/shifter/udiRoot.conf
sed -i 's|etcPath=.*|etcPath=/etc/shifter/shifter_etc_files/|' /etc/shifter/udiRoot.conf
sed -i 's|imagegwapi:5000|localhost:5000|' /etc/shifter/udiRoot.conf
