/usr/sbin/shifter-imagegw serve > /var/log/imagegwapi.log 2>&1 &
