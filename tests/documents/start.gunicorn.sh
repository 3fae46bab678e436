/usr/sbin/shifter-imagegw serve --listen 0.0.0.0:5000 2> /var/log/shifter_imagegw/error.log
