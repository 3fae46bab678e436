shifter --image=custom:load_test:v1 /bin/app
