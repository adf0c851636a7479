#!/bin/sh
# Build the two static synthesiser programs and copy espeak-ng's English data: build.sh DIR
# Debian: apt install gcc flite1-dev libespeak-ng-dev espeak-ng-data
set -eu
out=$1
here=$(dirname "$0")
mkdir -p "$out"
# The libraries refer to sound devices and a time stretcher; speaking to a file calls neither.
flags="-O2 -Wall -Wextra -static -Wl,--unresolved-symbols=ignore-all"
gcc $flags "$here/flite_speak.c" -o "$out/flite_speak" -lflite_cmu_us_awb -lflite_cmu_us_kal16 \
  -lflite_cmu_us_rms -lflite_cmu_us_slt -lflite_usenglish -lflite_cmulex -lflite -lm
gcc $flags "$here/espeak_speak.c" -o "$out/espeak_speak" -lespeak-ng -lstdc++ -lm
data=$(dirname "$(dpkg -L espeak-ng-data | grep '/phontab$')")
for file in phondata phonindex phontab intonations en_dict lang/gmw 'voices/!v'; do
  mkdir -p "$out/espeak-ng-data/$(dirname "$file")"
  cp -r "$data/$file" "$out/espeak-ng-data/$(dirname "$file")/"
done
strip "$out/flite_speak" "$out/espeak_speak"
