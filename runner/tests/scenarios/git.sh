# Git from init to gc, and a clone of a local repository.
# needs: bash ls git
dir=$(/usr/bin/mktemp -d); cd "$dir" || exit 1
export HOME=$dir GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
export GIT_AUTHOR_DATE='2024-01-01T00:00:00Z' GIT_COMMITTER_DATE='2024-01-01T00:00:00Z' GIT_CONFIG_NOSYSTEM=1 GIT_PAGER=cat
git=/usr/bin/git; $git config --global init.defaultBranch main; $git config --global gc.auto 0; $git config --global protocol.file.allow always
$git init -q r; cd r; /usr/bin/cp -r /usr/share/perl5 p; $git add .; $git commit -qm first; $git rev-parse HEAD; $git status --short
for i in 1 2 3 4 5; do echo $i >> f; $git add f; $git commit -qm "commit $i"; done; $git log --oneline
$git checkout -q -b side HEAD~2; echo side > s; $git add s; $git commit -qm side; $git merge -q main -m merge; $git log --graph --oneline | /usr/bin/head -5
$git checkout -q main; echo conflict >> f; $git commit -qam c1; $git checkout -q side; echo other >> f; $git commit -qam c2; $git merge main; echo "merge $?"; $git merge --abort
$git rebase -q main 2>&1 | /usr/bin/tail -1; $git rebase --abort; $git stash list; echo dirty >> f; $git stash -q; $git stash pop -q; $git diff --stat
$git checkout -q -- f; $git tag -a -m tag v1; $git describe; $git branch -v; $git diff HEAD~1 | /usr/bin/md5sum; $git blame f | /usr/bin/wc -l
$git gc -q --prune=now; echo "gc $?"; $git fsck --full 2>&1; $git count-objects -v | /usr/bin/grep -v size; $git repack -adq; $git grep -c package -- p | /usr/bin/md5sum
cd ..; $git clone -q r c; $git -C c log --oneline | /usr/bin/md5sum; $git clone -q --bare r b.git; $git clone -q "file://$dir/r" d --depth 2; $git -C d log --oneline | /usr/bin/wc -l
cd c; echo pushed > n; $git add n; $git commit -qm n; $git push -q ../b.git HEAD:new; $git -C ../b.git log -1 --format=%s new; $git fetch -q ../b.git new; $git pull -q ../b.git new; echo "pull $?"
$git worktree add -q ../w HEAD; $git -C ../w status -sb; $git archive HEAD | /usr/bin/tar -tf - | /usr/bin/wc -l; $git bisect start -q HEAD HEAD~3 2>&1 | /usr/bin/head -1
$git submodule --quiet add ../r sub; $git commit -qm sub; $git submodule status | /usr/bin/cut -c1-41; $git format-patch -1 --stdout HEAD~1 | /usr/bin/head -1; $git rm -q n; $git status --short
$git log --format=%H --all | /usr/bin/sort | /usr/bin/md5sum; $git bundle create -q ../x.bundle HEAD; $git clone -q ../x.bundle ../y; $git notaverb; echo $?
cd /; /usr/bin/rm -rf "$dir"
