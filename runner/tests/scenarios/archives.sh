# Archivers and compressors over /usr/share/doc.
# needs: bash ls tar gzip xz zstd bzip2
dir=$(/usr/bin/mktemp -d); cd "$dir" || exit 1
/usr/bin/tar -C /usr/share -cf doc.tar --sort=name doc; /usr/bin/tar -tf doc.tar | /usr/bin/md5sum; /usr/bin/tar -tvf doc.tar | /usr/bin/wc -l
/usr/bin/tar -xf doc.tar; /usr/bin/diff -r --no-dereference /usr/share/doc doc && echo same
/usr/bin/find doc -type f -printf '%P %s %m %T@\n' | /usr/bin/sort | /usr/bin/md5sum
/usr/bin/tar -C /usr/share -czf doc.tgz doc/bash; /usr/bin/tar -tzf doc.tgz | /usr/bin/wc -l
/usr/bin/tar -cJf - -C /usr/share doc/bash | /usr/bin/tar -tJf - | /usr/bin/wc -l
/usr/bin/head -c 1M doc.tar > part; for c in gzip xz zstd bzip2; do
  command -v $c >/dev/null || continue
  /usr/bin/$c -k -c part > part.$c 2>/dev/null; /usr/bin/$c -d -c part.$c | /usr/bin/cmp - part && echo $c ok; done
/usr/bin/zstd -q -T2 -k part -o p.zst; /usr/bin/zstd -q -d p.zst -o p2; /usr/bin/cmp part p2 && echo threads ok
/usr/bin/xz -T2 -k -c part | /usr/bin/xz -dc | /usr/bin/md5sum; /usr/bin/gzip part; /usr/bin/gunzip part.gz; /usr/bin/md5sum part
echo broken | /usr/bin/gzip -d 2>&1; echo "${PIPESTATUS[@]}"; /usr/bin/zcat doc.tgz | /usr/bin/wc -c >/dev/null
/usr/bin/mkdir s; cd s; /usr/bin/ln -s nowhere dangling; /usr/bin/mkfifo pipe; echo x > f; /usr/bin/ln f hard; /usr/bin/chmod 600 f
cd ..; /usr/bin/tar --sort=name -cf s.tar s; /usr/bin/mkdir t; /usr/bin/tar -C t -xpf s.tar; /usr/bin/ls -l t/s | /usr/bin/awk '{print $1, $2, $9, $10, $11}'
/usr/bin/tar -rf s.tar doc/bash; /usr/bin/tar --delete -f s.tar s/f; /usr/bin/tar -tf s.tar | /usr/bin/head -3; /usr/bin/tar -xf nothing.tar; echo $?
cd /; /usr/bin/rm -r "$dir"
