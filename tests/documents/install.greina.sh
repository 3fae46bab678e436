export SHIFTER_SYSCONFDIR=/etc/shifter
export IMAGES_CACHE_PATH=/scratch/shifter/images/cache
export IMAGES_EXPAND_PATH=/var/shifter/expand
mkdir -p $IMAGES_CACHE_PATH
mkdir -p $IMAGES_EXPAND_PATH
cp imagemanager.json.local $SHIFTER_SYSCONFDIR/imagemanager.json
