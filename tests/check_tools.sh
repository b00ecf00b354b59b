#!/bin/sh
# SPDX-License-Identifier: MIT
# The sub-commands from end to end with the demo model: results, resuming after a kill, what bad input gets, full disks,
# closed pipes.  Runs in the build folder; QUERN names another program.
quern=${QUERN:-./quern}
demo=${QUERN_TEST_DATA:-${srcdir:-.}/tests/data}/demo.gguf
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM
n=0 failed=0

good() { n=$((n + 1)); }
bad() {
    n=$((n + 1)) failed=$((failed + 1))
    echo "FAILED: $*"
    sed 's/^/    /' "$tmp/err" 2>/dev/null | tail -n 5
}
check() { # NAME COMMAND...: the command succeeds
    name=$1
    shift
    if "$@"; then good; else bad "$name"; fi
}
is() { # NAME GOT WANTED
    if [ "$2" = "$3" ]; then good; else bad "$1: got '$2', wanted '$3'"; fi
}
same() { # NAME FILE FILE
    if cmp -s "$2" "$3"; then good; else bad "$1: $2 and $3 differ"; fi
}
q() { "$quern" "$@" 2>"$tmp/err"; }
# The command ends with this status and one line on standard error that matches.
refuses() { # STATUS PATTERN COMMAND...
    want=$1 pattern=$2
    shift 2
    "$quern" "$@" >"$tmp/out" 2>"$tmp/err" </dev/null
    status=$?
    if [ $status -ne "$want" ]; then
        bad "quern $*: status $status, wanted $want"
    elif [ "$(wc -l <"$tmp/err")" -ne 1 ] || ! grep -q "^quern: .*$pattern" "$tmp/err"; then
        bad "quern $*: not one line with '$pattern'"
    else
        good
    fi
}

# ---- the program
is "no command" "$(q; echo $?)" 2
refuses 2 "unknown command 'fly'" fly
refuses 2 "unknown option --fly" run --fly
refuses 2 "needs a value" run -p
refuses 2 "not within" run -p x -t 9999
refuses 2 "one of -p TEXT and -f FILE" run
refuses 2 "are needed" batch -i x
refuses 2 "is needed" logits -m "$demo" --hash
refuses 2 "which file" inspect
refuses 2 "of the form" template --messages x --now yesterday
check "--version names the arithmetic" sh -c "'$quern' --version | grep -q 'QN_BITS [0-9]'"
for c in chat run batch perplexity logits tokenize template inspect bench; do
    check "$c --help" sh -c "'$quern' $c --help | grep -q '^Usage: quern $c '"
done

# ---- run
start='Once upon a time'
q run -m "$demo" -p "$start" -n 12 --temp 0 >"$tmp/run"
is "run, greedy" "$(cat "$tmp/run")" ", there was a little girl named Tom. Tom"
for how in '-t 1' '-t 3 -ub 1' '--isa c' '-b 2'; do
    # shellcheck disable=SC2086
    q run -m "$demo" -p "$start" -n 12 --temp 0 $how >"$tmp/run2"
    same "run $how" "$tmp/run" "$tmp/run2"
done
for how in '--temp 0' '--temp 1.1 --seed 3'; do
    again='The dog ran. The cat ran. The dog ran. The cat'
    q run -m "$demo" -p "$again" -n 80 $how >"$tmp/plain"
    q run -m "$demo" -p "$again" -n 80 $how --spec ngram --draft-max 7 >"$tmp/guessed"
    is "guesses, $how" "$(cmp "$tmp/plain" "$tmp/guessed" && echo same)" "same"
done
is "no draft block" "$("$quern" run -m "$demo" -p "$start" --spec mtp 2>&1 | grep -c 'no block that drafts')" "1"
is "stop text within tokens" "$(q run -m "$demo" -p "$start" -n 12 --temp 0 --stop 'tle gi' --stop zzz)" ", there was a lit"
is "echo" "$(q run -m "$demo" -p "$start" -n 3 --temp 0 --echo)" "$start, there was"
printf '%s' "$start" >"$tmp/prompt"
is "prompt from a file" "$(q run -m "$demo" -f "$tmp/prompt" -n 3 --temp 0)" ", there was"
q run -m "$demo" -p "$start" -n 20 --temp 3 --top-k 0 --top-p 1 -s 1 >"$tmp/s1"
q run -m "$demo" -p "$start" -n 20 --temp 3 --top-k 0 --top-p 1 -s 1 >"$tmp/s2"
q run -m "$demo" -p "$start" -n 20 --temp 3 --top-k 0 --top-p 1 -s 2 >"$tmp/s3"
same "one seed, one text" "$tmp/s1" "$tmp/s2"
check "another seed, another text" sh -c "! cmp -s '$tmp/s1' '$tmp/s3'"
q run -m "$demo" -p "$start" -n 20 --temp 3 >"$tmp/s1"
seed=$(sed -n 's/.*seed \([0-9]*\)$/\1/p' "$tmp/err")
is "the random seed is printed" "$(q run -m "$demo" -p "$start" -n 20 --temp 3 -s "$seed")" "$(cat "$tmp/s1")"
is "context full" "$(q run -m "$demo" -p "$start" --temp 0 -c 8 --ignore-eos; echo "$?")" ", there was a0"
check "context full is said" grep -q 'context of 8 positions is full' "$tmp/err"
refuses 1 "prompt has 5 tokens, the context holds 4" run -m "$demo" -p "$start" -c 4
is "the bundled model is the default" "$("$quern" run -p "$start" -n 3 --temp 0 2>"$tmp/err")" ", there was"
check "and that is said" grep -q 'using the bundled demo model' "$tmp/err"

# a full context: text after a shift is that of a fresh run on the shifted prompt
q run -m "$demo" -p 'The little dog ran to' -c 24 -n 30 --temp 0 --ignore-eos --on-full shift >"$tmp/run"
check "a shift is said" grep -q 'context of 24 positions is full: 13 tokens left out behind the first 0, 0 kept, 12 read again' "$tmp/err"
ids_of() { q tokenize -m "$demo" | tr -d '[] ' | tr , '\n'; }
text_of() { q tokenize -m "$demo" --detokenize; }
{ printf 'The little dog ran to'; cat "$tmp/run"; } | ids_of >"$tmp/ids"
is "prompt and text are as many tokens as were read and written" "$(wc -l <"$tmp/ids")" 35
sed -n 14,25p "$tmp/ids" | text_of >"$tmp/shifted"
q run -m "$demo" -f "$tmp/shifted" -n 10 --temp 0 --ignore-eos >"$tmp/fresh"
sed -n '26,$p' "$tmp/ids" | text_of >"$tmp/behind"
same "behind a shift" "$tmp/behind" "$tmp/fresh"
q run -m "$demo" -p 'The little dog ran to' -c 24 -n 30 --temp 0 --ignore-eos --on-full shift --keep 10 >"$tmp/run"
check "what is kept" grep -q '8 tokens left out behind the first 10, 10 kept, 7 read again' "$tmp/err"
{ printf 'The little dog ran to'; cat "$tmp/run"; } | ids_of >"$tmp/ids"
sed -n '1,10p;19,25p' "$tmp/ids" | text_of >"$tmp/shifted"
q run -m "$demo" -f "$tmp/shifted" -n 7 --temp 0 --ignore-eos >"$tmp/fresh"
sed -n 26,32p "$tmp/ids" | text_of >"$tmp/behind"
same "behind a shift with a beginning that stays" "$tmp/behind" "$tmp/fresh"
q run -m "$demo" -p "$start, there was a little girl" -c 6 -n 2 --temp 0 --on-full shift >"$tmp/run"
check "a prompt is shifted" grep -q 'prompt has [0-9]* tokens, the context holds 6: [0-9]* left out' "$tmp/err"
is "and then is the prompt" "$(cat "$tmp/run")" "$(q run -m "$demo" -p " little girl" -n 2 --temp 0 --on-full shift)"

# memory is promised before anything is read
q run -m "$demo" -p x -n 16777000 -c 16777216 -ctk f32 -ctv f32 --stop ' ' >"$tmp/run" && fits= ||
    fits=$(sed -n 's/.*16777001 tokens: \([0-9]*\) would fit.*/\1/p' "$tmp/err")
if [ -n "$fits" ]; then
    is "nothing is written that cannot be ended" "$(wc -c <"$tmp/run")" 0
    is "what fits is done" "$(q run -m "$demo" -p "$start" -n $((fits * 9 / 10)) -c 16777216 -ctk f32 -ctv f32 --temp 0 --stop there)" ", "
    is "an answer without a limit has what there is" \
        "$(q run -m "$demo" -p "$start" -c 16777216 -ctk f32 -ctv f32 --temp 0 --stop there)" ", "
    for i in 1 2 3 4; do
        echo "{\"prompt\": \"Once upon a time $i\", \"max_tokens\": $((fits * 6 / 10)), \"stop\": \" \"}"
    done >"$tmp/large.jsonl"
    echo '{"prompt": "x", "max_tokens": 16777000}' >>"$tmp/large.jsonl"
    q batch -m "$demo" -i "$tmp/large.jsonl" -o "$tmp/large.out" -c 16777216 -ctk f32 -ctv f32 -s 1
    check "lines wait for memory" grep -q 'fewer than 4 side by side: no memory for a context of' "$tmp/err"
    is "and are answered" "$(grep -c '"finish_reason":"stop"' "$tmp/large.out")" 4
    is "but for one that can never fit" "$(grep -c 'no memory for a context of 16777001 tokens: [0-9]* would fit' "$tmp/large.out")" 1
else
    echo "SKIPPED: memory has room for 16777216 positions"
fi

# ---- chat over a pipe
printf 'My secret word is apple. Remember it.\n\nWhat is my secret word?\n/save %s\n' "$tmp/talk.json" |
    q chat -m "$demo" --temp 0 --think off >"$tmp/chat"
is "chat recalls" "$(sed -n 2p "$tmp/chat")" "The secret word is apple."
is "chat answers one line a turn" "$(wc -l <"$tmp/chat")" 2
check "chat saves" grep -q '"content": "The secret word is apple."' "$tmp/talk.json"
printf '/load %s\nWhat is my secret word?\n' "$tmp/talk.json" | q chat -m "$demo" --temp 0 --think off >"$tmp/chat"
is "chat loads and goes on" "$(cat "$tmp/chat")" "The secret word is apple."
# sessions
talk() { q chat -m "$demo" --temp 0 --think off --session "$tmp/talk.session" "$@"; }
printf 'My secret word is apple. Remember it.\n' | talk >"$tmp/chat"
check "a session is said to be saved" grep -q 'session of 2 messages, [0-9]* tokens, saved' "$tmp/err"
printf 'What is my secret word?\n/stats\n/save\n' | talk >"$tmp/chat"
is "a session goes on" "$(sed -n 1p "$tmp/chat")" "The secret word is apple."
check "without being read again" grep -q '^last prompt .*: [1-9][0-9]* kept' "$tmp/chat"
check "more than once" sh -c "printf 'What is my secret word?\n' | '$quern' chat -m '$demo' --temp 0 --think off --session '$tmp/talk.session' 2>/dev/null | grep -q apple"
cp "$tmp/talk.session" "$tmp/good.session"
dd if=/dev/zero of="$tmp/talk.session" bs=1 seek=5000 count=9 conv=notrunc 2>/dev/null
refuses 1 "talk.session: damaged" chat -m "$demo" --session "$tmp/talk.session"
refuses 1 "other types of keys" chat -m "$demo" -ctk f32 --session "$tmp/good.session"
refuses 1 "not a session" chat -m "$demo" --session "$tmp/talk.json"
(ulimit -f 8 && printf '/clear\n' | q chat -m "$demo" --session "$tmp/good.session" >/dev/null)
is "a full disk is an error" $? 1
check "that is said" grep -q 'the session was not saved' "$tmp/err"
check "and the old session is there" sh -c "printf '/exit\n' | '$quern' chat -m '$demo' --session '$tmp/good.session' 2>&1 | grep -q 'good.session: 6 messages'"

# a text that goes on
goes() { q run -m "$demo" --temp 0 --session "$tmp/text.session" "$@"; }
q run -m "$demo" --temp 0 -p 'The dog went to the' -n 24 >"$tmp/all"
goes -p 'The dog went to the' -n 9 >"$tmp/part"
goes -n 15 >>"$tmp/part"
is "a text goes on" "$(cat "$tmp/part")" "$(cat "$tmp/all")"
check "without being read again" grep -q 'text.session: [1-9][0-9]* tokens kept, 15 read' "$tmp/err"
goes -p 'The dog went to the' -n 24 >"$tmp/again"
is "the same prompt is known" "$(cat "$tmp/again")" "$(cat "$tmp/all")"
# Ctrl-C while the prompt is read leaves the session as it was, and while text is written keeps what there is
interrupt() { # COMMAND...: once it has written something; its exit status
    : >"$tmp/out"
    "$@" >"$tmp/out" 2>"$tmp/err" &
    pid=$!
    tries=0
    while [ ! -s "$tmp/out" ] && [ $tries -lt 600 ]; do
        sleep 0.05
        tries=$((tries + 1))
    done
    for again in 1 2 3; do # at first it may not be ready for that
        sleep 0.1
        kill -INT $pid 2>/dev/null
    done
    wait $pid
    echo $?
}
cp "$tmp/text.session" "$tmp/kept.session"
awk 'BEGIN { for (i = 0; i < 1200; i++) printf "word %d ", i % 7 }' >"$tmp/slow"
is "a prompt is interrupted" \
    "$(interrupt "$quern" run -m "$demo" --session "$tmp/text.session" -f "$tmp/slow" -b 1 -t 1 --isa c --echo)" 130
check "and that is said" grep -q 'text.session: left as it was, the prompt was not read to its end' "$tmp/err"
same "the session is as it was" "$tmp/text.session" "$tmp/kept.session"
is "a text is interrupted" "$(interrupt "$quern" run -m "$demo" -p "$start" --temp 0 --ignore-eos --echo --session "$tmp/text.session")" 130
goes -n 9 --ignore-eos >>"$tmp/out"
q run -m "$demo" -p "$start" --temp 0 --ignore-eos --echo >"$tmp/all"
head -c "$(wc -c <"$tmp/out")" "$tmp/all" >"$tmp/part"
same "and goes on" "$tmp/out" "$tmp/part"
refuses 1 "a session of another command" run -m "$demo" --session "$tmp/good.session"
refuses 1 "not a JSON array" chat -m "$demo" --session "$tmp/text.session"
refuses 1 "nothing to go on with" run -m "$demo" --session "$tmp/none.session"
refuses 2 "one of -p TEXT and -f FILE" run -m "$demo"

# prompts that begin alike, a start for each
XDG_CACHE_HOME=$tmp/hashes
export XDG_CACHE_HOME
dir=$tmp/prompts.run
alike=$(awk 'BEGIN { for (i = 0; i < 40; i++) printf "the dog saw %d birds and ", i % 7 }')
asks() { # WHAT [OPTION...]: the answer, and in $tmp/asked how much was known
    what=$1
    shift
    q run -m "$demo" --temp 0 -n 9 -p "$alike $what" >"$tmp/plain"
    q run -m "$demo" --temp 0 -n 9 -p "$alike $what" --cache-dir "$dir" "$@" >"$tmp/answer"
    sed -n 's/.*: \([0-9]*\) tokens kept\( ([0-9]* from disk)\)\{0,1\}, \([0-9]*\) read$/\1 \3/p' "$tmp/err" >"$tmp/asked"
    same "the answer is that without a folder: $what $*" "$tmp/answer" "$tmp/plain"
}
asks 'then went home'
is "at first nothing is known" "$(cut -d' ' -f1 "$tmp/asked")" 0
all=$(cut -d' ' -f2 "$tmp/asked")
asks 'then went home'
is "the same prompt is not read again" "$(cut -d' ' -f2 "$tmp/asked")" 9
check "and comes from disk" grep -q 'tokens kept ([0-9]* from disk), ' "$tmp/err"
asks 'ran to the sea'
asks 'sat under a tree'
check "the third prompt goes on where the first two parted: $(cat "$tmp/asked"), all are $all" \
    awk -v all="$all" '{ exit !($1 > 200 && $2 < 30 && $1 + $2 > all - 10) }' "$tmp/asked"
asks 'ate a fish' --session "$tmp/alike.session"
check "a session may go with it: $(cat "$tmp/asked")" awk '{ exit !($1 > 200 && $2 < 30) }' "$tmp/asked"
asks 'ate a fish' --session "$tmp/alike.session"
check "and has the prompt, but for what is too short for a snapshot: $(cat "$tmp/asked")" awk '{ exit !($2 < 9 + 8) }' "$tmp/asked"
is "an interrupted prompt" \
    "$(interrupt "$quern" run -m "$demo" --cache-dir "$dir" -f "$tmp/slow" -b 1 -t 1 --isa c --echo)" 130
n_slow=$(sed -n 's/.* 0 tokens kept, \([0-9]*\) read$/\1/p' "$tmp/err")
q run -m "$demo" --cache-dir "$dir" -f "$tmp/slow" -n 0
check "is kept as far as it was read: $n_slow" grep -q ": $n_slow tokens kept ($n_slow from disk), " "$tmp/err"
refuses 2 'keeps nothing' run -m "$demo" -p x --cache-dir "$dir" --cache-ram 0
unset XDG_CACHE_HOME

# an answer whose text the tokenizer would cut otherwise is not read again
cat >"$tmp/chatml.jinja" <<'END'
{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}
END
for seed in 3 5; do
    printf 'Tell me about a dog.\nAnd a cat?\n/stats\nAnd a cow?\n/stats\n' |
        q chat -m "$demo" --template-file "$tmp/chatml.jinja" --logit-bias 4091-100 --logit-bias 4092-100 --temp 1.6 --top-k 0 \
            --top-p 1 --min-p 0 -n 60 --seed $seed --think off >"$tmp/chat"
    is "an answer's own ids are kept, seed $seed" "$(grep -c '^last prompt .* kept, 1[89] computed$' "$tmp/chat")" 2
done

# what was computed before is kept, in front of an answer whose thinking the template forgets, and the answers are the same
turns() {
    printf '%s\n' 'Tell me a long story about a red dog who goes to the sea and comes home again with a fish.' /stats \
        'And what did the cat of the old fisherman say about it when she saw the fish?' /stats /regen /stats \
        '/edit And what did the small bird on the roof say about it when the dog came home?' /stats |
        q chat -m "$demo" -s 5 -n 30 --think off "$@"
}
turns >"$tmp/kept"
turns --cache-ram 0 -ub 7 >"$tmp/read"
kept() { sed -n 's/^last prompt .*: \([0-9]*\) kept.*/\1/p' "$1" | tr '\n' ' '; }
for f in kept read; do grep -v '^\(last prompt\|prefix store\|tokens\|memory\) ' "$tmp/$f" >"$tmp/$f.answers"; done
same "chat answers alike with a store and without" "$tmp/kept.answers" "$tmp/read.answers"
is "without a store all is read again" "$(kept "$tmp/read")" "0 0 0 0 "
check "a turn, an answer made again and a changed message are continued" \
    awk '{ exit !($1 == 0 && $2 > 20 && $3 > $2 && $4 >= $2) }' <<EOT
$(kept "$tmp/kept")
EOT
check "chat says where a prompt parts from what is known" grep -q 'parts from what is known at token [0-9]*, ".*" there and ".*" here' \
    "$tmp/kept"
# a conversation after a restart: only what is new is computed, with the same answers
dir=$tmp/prompts
XDG_CACHE_HOME=$tmp/hashes
export XDG_CACHE_HOME
q chat -m "$demo" -s 5 -n 30 --think off --cache-dir "$dir" >"$tmp/first" <<EOT
Tell me a long story about a red dog who goes to the sea and comes home again with a fish.
And what did the cat of the old fisherman say about it?
/save $tmp/talk.json
EOT
check "there are files" sh -c "ls '$dir' | grep -q '[.]snapshot$' && ls '$dir' | grep -q '[.]segment$'"
is "of their owner's alone" "$(find "$dir" ! -name lock -perm 600 -type f | wc -l) $(stat -c %a "$dir")" "$(($(ls "$dir" | wc -l) - 1)) 700"
is "the model's hash was noted" "$(ls "$tmp/hashes/quern" | grep -c '[.]key$')" 1
again() { printf '%s\n' "/load $tmp/talk.json" /stats 'And the bird?' /stats | q chat -m "$demo" -s 5 -n 30 --think off "$@"; }
again --cache-ram 0 >"$tmp/read"
again --cache-dir "$dir" >"$tmp/kept"
check "nothing but the end of the turn is computed after a restart" \
    grep -q '^last prompt *[0-9]* tokens: [0-9]* kept ([0-9]* from disk), [0-2] computed' "$tmp/kept"
for f in kept read; do grep -v '^\(last prompt\|prefix store\|tokens\|memory\|cache folder\) ' "$tmp/$f" >"$tmp/$f.answers"; done
same "chat answers alike with a folder and without" "$tmp/kept.answers" "$tmp/read.answers"
chmod 777 "$dir"
refuses 1 'everybody may write' chat -m "$demo" --cache-dir "$dir"
refuses 2 'keeps nothing' chat -m "$demo" --cache-dir "$dir" --cache-ram 0
refuses 2 'no --cache-dir' chat -m "$demo" --cache-disk 100
unset XDG_CACHE_HOME

is "undo takes back" "$(printf 'Hello\n/undo\n/undo\n/edit x\n/edit\n' | q chat -m "$demo" -n 1 | wc -l; sed -n 's/^quern: \(there\|taken\|.edit\).*/\1/p' "$tmp/err" | tr '\n' ' ')" "1
taken there there /edit "

# a full context
long() {
    printf '%s\n' 'My name is Ann.' 'Tell me about a dog.' 'And a cat?' 'What is a cow?' 'Tell me a story.' "/save $tmp/long.json" /stats |
        q chat -m "$demo" --temp 0 --think off -c 96 --system-prompt 'You are kind.' "$@"
}
long >"$tmp/chat"
is "a message that does not fit is not taken" "$(grep -c 'context is full: .* the message was not taken' "$tmp/err")" 2
long --on-full drop-oldest-turns >"$tmp/dropped"
is "the oldest turns are dropped" "$(grep -c 'positions is full: the oldest 2 messages dropped, [1-9][0-9]* tokens kept, [1-9][0-9]* read again' "$tmp/err")" 3
is "which are the oldest" "$(grep -c '"content": "\(You are kind.\|What is a cow?\|Tell me a story.\)"' "$tmp/long.json")" 3
is "and no more than that" "$(grep -c '"role"' "$tmp/long.json")" 5
sed '/What is a cow/q' "$tmp/long.json" >"$tmp/rest.json"
{
    cat "$tmp/rest.json"
    printf '},{"role": "assistant", "content": "%s"}]' "$(sed -n 4p "$tmp/dropped")"
} >"$tmp/rest2.json"
printf '/load %s\nTell me a story.\n' "$tmp/rest2.json" | q chat -m "$demo" --temp 0 --think off >"$tmp/chat"
is "the answer is that to what is left" "$(cat "$tmp/chat")" "$(sed -n 5p "$tmp/dropped")"
long --on-full shift >"$tmp/shifted"
is "ids are left out" "$(grep -c 'positions is full: [0-9]* tokens left out behind the first 11, [1-9][0-9]* kept, [1-9][0-9]* read again' "$tmp/err")" 2
is "no message is" "$(grep -c '"role"' "$tmp/long.json")" 11
check "it is in the figures" grep -q '^context .* in use; [1-9][0-9]* tokens of the conversation left out' "$tmp/shifted"
long --on-full shift --cache-ram 0 -ub 7 >"$tmp/read"
is "what was kept changes nothing" "$(sed 5q "$tmp/read")" "$(sed 5q "$tmp/shifted")"
for how in shift drop-oldest-turns; do
    for cache in '' '--cache-ram 0'; do
        # shellcheck disable=SC2086
        printf '%s\n' 'My name is Ann.' 'And a dog?' 'Tell me a long story.' |
            q chat -m "$demo" --temp 0 --think off -c 96 -n 70 --stop Ann --on-full $how $cache >"$tmp/chat$cache"
    done
    same "an answer that is longer than the context, $how" "$tmp/chat" "$tmp/chat--cache-ram 0"
done

for cache in '' '--cache-ram 0'; do
    # shellcheck disable=SC2086
    printf '/load %s\n%s\n' "$tmp/talk.json" 'Tell me a story.' |
        q chat -m "$demo" --temp 0 --think off -c 96 --on-full drop-oldest-turns --ignore-eos $cache >"$tmp/chat$cache"
done
same "an answer for whose sake turns are dropped" "$tmp/chat" "$tmp/chat--cache-ram 0"
is "twice, and then there is no more" "$(sed -n 's/.*is full: the oldest \([0-9]* messages\) .*/\1/p; s/.*\(all 96\).*/\1/p' "$tmp/err" | tr '\n' ' ')" \
    "2 messages 2 messages all 96 "

is "an unknown command is a message" "$(printf '/who are you?\n' | q chat -m "$demo" --temp 0 -n 1 --think off | wc -l)" 1
printf 'word %.0s' 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 >"$tmp/long"
is "a message that does not fit" "$(q chat -m "$demo" -c 24 --temp 0 <"$tmp/long"; echo $?)" 1
check "is said" grep -q 'context is full' "$tmp/err"

# ---- tokenize and template
text='Hello <think>, <|im_end|> w\303\266rld\377\n\n x'
printf "$text" | q tokenize -m "$demo" >"$tmp/ids"
q tokenize -m "$demo" --detokenize <"$tmp/ids" >"$tmp/back"
printf "$text" >"$tmp/text"
same "tokenize and back" "$tmp/text" "$tmp/back"
is "control tokens are text" "$(printf '<|im_end|>' | q tokenize -m "$demo" | tr , '\n' | wc -l)" 7
is "unless asked for" "$(printf '<|im_end|>' | q tokenize -m "$demo" --special)" "[4086]"
is "nothing gives nothing" "$(q tokenize -m "$demo" </dev/null)" "[]"
is "an id outside" "$(echo 4096 | q tokenize -m "$demo" --detokenize; echo $?)" 1
is "no id at all" "$(echo '[1, x]' | q tokenize -m "$demo" --detokenize; echo $?)" 1
echo '[{"role": "user", "content": "Hi"}]' >"$tmp/m.json"
q template -m "$demo" --messages "$tmp/m.json" --kwargs '{"enable_thinking": false}' >"$tmp/rendered"
printf '<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n' >"$tmp/wanted"
same "template" "$tmp/rendered" "$tmp/wanted"
printf '{{ raise_exception("not this") }}' >"$tmp/refuses.jinja"
refuses 1 "not this" template --template-file "$tmp/refuses.jinja" --messages "$tmp/m.json"
printf '{%% for i in range(100000) %%}{%% for j in range(100000) %%}{%% endfor %%}{%% endfor %%}' >"$tmp/endless.jinja"
refuses 1 "." template --template-file "$tmp/endless.jinja" --messages "$tmp/m.json"
is "a template that refuses prints nothing" "$(wc -c <"$tmp/out")" 0
echo '{"role": "user"}' >"$tmp/object.json"
refuses 1 "object.json: not a JSON array" template -m "$demo" --messages "$tmp/object.json"
echo '[' >"$tmp/broken.json"
refuses 1 "broken.json: not JSON" template -m "$demo" --messages "$tmp/broken.json"

# ---- logits and perplexity
seq 100 170 >"$tmp/a.ids"
seq 7 40 | tr '\n' , >"$tmp/b.ids"
q logits -m "$demo" --ids "$tmp/a.ids" --ids "$tmp/b.ids" --hash --out "$tmp/logits" >"$tmp/hash"
is "logits" "$(wc -c <"$tmp/logits")" $(((71 + 34) * 4096 * 4))
check "16 digits a line" sh -c "[ \$(grep -cx '[0-9a-f]\{16\}' '$tmp/hash') -eq 2 ]"
for how in '-t 1 -ub 1' '-t 3 -ub 7' '--isa c'; do
    # shellcheck disable=SC2086
    { q logits -m "$demo" --ids "$tmp/a.ids" --hash $how; q logits -m "$demo" --ids "$tmp/b.ids" --hash $how; } >"$tmp/hash2"
    same "logits alone $how" "$tmp/hash" "$tmp/hash2"
done
q logits -m "$demo" --ids "$tmp/a.ids" --out - >"$tmp/logits2"
check "logits to a pipe" cmp -s -n $((71 * 4096 * 4)) "$tmp/logits" "$tmp/logits2"
echo 1 2 4096 >"$tmp/outside.ids"
refuses 1 "id 4096 at position 2 is not within the vocabulary of 4096" logits -m "$demo" --ids "$tmp/outside.ids" --hash
echo 1 2 -3 >"$tmp/minus.ids"
refuses 1 "not a token id" logits -m "$demo" --ids "$tmp/minus.ids" --hash
: >"$tmp/empty.ids"
refuses 1 "holds no ids" logits -m "$demo" --ids "$tmp/empty.ids" --hash

q run -m "$demo" -p "$start" -n 150 --temp 1 -s 3 --ignore-eos >"$tmp/story"
q perplexity -m "$demo" -f "$tmp/story" -c 64 --json --save-logits "$tmp/base" >"$tmp/ppl"
check "perplexity counts" grep -q '"n_scored":62,"n_ctx":64,"n_chunks":2' "$tmp/ppl"
q perplexity -m "$demo" -f "$tmp/story" -c 64 -t 1 -ub 5 --json >"$tmp/ppl2"
same "perplexity in other steps" "$tmp/ppl" "$tmp/ppl2"
is "size of the predictions" "$(wc -c <"$tmp/base")" $((20 + 2 * 64 * 4 + 62 * (4096 * 2 + 8)))
q perplexity -m "$demo" --kl-divergence "$tmp/base" --json >"$tmp/kl"
check "no divergence from itself" grep -Eq '"kl_mean":-?[0-9.]+e-[0-9]+,.*"same_top":1\.0' "$tmp/kl"
q perplexity -m "$demo" -f "$tmp/story" -c 64 >"$tmp/ppl2"
check "perplexity for people" grep -q '^Final estimate: PPL = [0-9.]* +/- ' "$tmp/ppl2"
refuses 1 "one chunk needs 2000" perplexity -m "$demo" -f "$tmp/story" -c 2000
head -c 4000 "$tmp/base" >"$tmp/short"
refuses 1 "need" perplexity -m "$demo" --kl-divergence "$tmp/short"
refuses 1 "_logits_" perplexity -m "$demo" --kl-divergence "$tmp/story"

# ---- batch
i=0
while [ $i -lt 12 ]; do
    echo "{\"id\": $i, \"prompt\": \"Once upon a time $i\", \"max_tokens\": $((20 + i * 3)), \"ignore_eos\": true}"
    i=$((i + 1))
done >"$tmp/in.jsonl"
cat >>"$tmp/in.jsonl" <<'END'
{"id": "talk", "messages": [{"role": "user", "content": "Who are you?"}], "temperature": 0}
this is not JSON
{"id": "both", "prompt": "x", "messages": []}
{"id": "range", "prompt": "x", "top_p": 7}
{"prompt": "Once upon a time", "temperature": 0, "max_tokens": 12, "stop": ["zzz", "tle gi"]}
END
printf '{"id": {"any": ["thing"]}, "prompt": "Once upon a time", "max_tokens": 0}' >>"$tmp/in.jsonl" # no newline at its end
batch() { q batch -m "$demo" -i "$tmp/in.jsonl" --think off -s 11 "$@"; }
batch -o "$tmp/ref.jsonl" -np 4
is "a line for every line" "$(wc -l <"$tmp/ref.jsonl")" 18
check "no part file is left" [ ! -e "$tmp/ref.jsonl.part" ]
check "an answer" grep -q '^{"id":"talk","index":12,"text":"I am Tiny, a very small language model.","finish_reason":"stop"' "$tmp/ref.jsonl"
check "a stop text" grep -q '"index":16,"text":", there was a lit","finish_reason":"stop"' "$tmp/ref.jsonl"
check "an id of any kind" grep -q '^{"id":{"any":\["thing"\]},"index":17,"text":"","finish_reason":"length"' "$tmp/ref.jsonl"
is "bad lines" "$(grep -c '"error":"' "$tmp/ref.jsonl")" 3
check "in the order of the input" sh -c "grep -o '\"index\":[0-9]*' '$tmp/ref.jsonl' | sort -c -t: -k2 -n"
batch -o "$tmp/one.jsonl" -np 1 -t 1 -ub 3
same "one after the other" "$tmp/ref.jsonl" "$tmp/one.jsonl"

# a common beginning is read once, whoever waits for whom; the answers are the same
story=$(printf 'the red dog and the old cat went over the hill to see the sea %.0s' 1 2 3 4 5 6 7 8 9 10)
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do
    echo "{\"prompt\": \"$story, said the $i ones$([ $((i % 3)) = 0 ] && echo ' and sang a song, and')\", \"max_tokens\": 5}"
done >"$tmp/common.jsonl"
common() { q batch -m "$demo" -i "$tmp/common.jsonl" -s 3 "$@"; }
computed() { sed -n 's/.* tokens of prompts: [0-9]* kept, \([0-9]*\) computed/\1/p' "$tmp/err"; }
common -o "$tmp/common0" --cache-ram 0
all=$(computed)
for np in 1 4 12; do
    common -o "$tmp/common$np" -np $np
    same "common beginnings, $np side by side" "$tmp/common0" "$tmp/common$np"
    check "are read once, or twice where nobody waits: $(computed) of $all" \
        [ $(($(computed) * 12)) -lt $((all * (np == 1 ? 3 : 2))) ]
done

# guesses change nothing, whoever else is in the step
i=0
while [ $i -lt 12 ]; do
    echo "{\"prompt\": \"The dog ran. The cat ran. The dog ran $i. The cat\", \"max_tokens\": $((30 + i * 5)), \"ignore_eos\": true, \"temperature\": $((i % 2)), \"stop\": \"girl\"}"
    i=$((i + 1))
done >"$tmp/again.jsonl"
for i in 1 2; do
    echo "{\"prompt\": \"A dog, a cat, a dog, $i\", \"max_tokens\": 160, \"ignore_eos\": true, \"temperature\": 0}"
done >>"$tmp/again.jsonl"
repeats() { q batch -m "$demo" -i "$tmp/again.jsonl" -s 3 "$@"; }
for full in '' '-c 48 --on-full shift'; do
    # shellcheck disable=SC2086
    repeats -o "$tmp/plain" -np 4 $full
    [ "$full" ] || cp "$tmp/plain" "$tmp/plain0"
    for how in '-np 1 --draft-max 7' '-np 4' '-np 14 --draft-max 63 -t 2' '-np 3 -ub 6'; do
        # shellcheck disable=SC2086
        repeats -o "$tmp/guessed" --spec ngram $how $full
        same "guesses in a batch, $how $full" "$tmp/plain" "$tmp/guessed"
        check "some were made" grep -q '^quern: guesses: [0-9]* of [1-9][0-9]* right' "$tmp/err"
    done
done
repeats -o "$tmp/guessed" --spec ngram -np 14 -ub 14
check "too many side by side for guesses" grep -q '^quern: 14 side by side: no guesses beside so many' "$tmp/err"
same "then there are none" "$tmp/plain0" "$tmp/guessed"

# and by the next batch
common -o "$tmp/common.first" --cache-dir "$tmp/beginnings"
common -o "$tmp/common.second" --cache-dir "$tmp/beginnings" -np 1
same "common beginnings from disk" "$tmp/common0" "$tmp/common.second"
check "the beginning was there" grep -q ' kept ([0-9]* from disk), ' "$tmp/err"

# killed at several moments, gone on with each time
out=$tmp/killed.jsonl rounds=0
while [ $rounds -lt 4 ]; do
    "$quern" batch -m "$demo" -i "$tmp/in.jsonl" --think off -s 11 -o "$out" -np 3 2>/dev/null &
    pid=$!
    lines=$((2 + rounds * 3)) waited=0
    while [ $waited -lt 600 ] && kill -0 $pid 2>/dev/null &&
        [ "$(cat "$out.part" 2>/dev/null | wc -l)" -lt $lines ]; do
        sleep 0.02
        waited=$((waited + 1))
    done
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
    [ -e "$out.part" ] || break # it was done before the kill
    check "no output before the end" [ ! -e "$out" ]
    check "nothing twice in the part file" sh -c "sed 1d '$out.part' | grep -o '^{\"index\":[0-9]*' | sort | uniq -d | wc -l | grep -qx '0'"
    cp "$out.part" "$tmp/part.$rounds"
    rounds=$((rounds + 1))
done
check "it was killed at least once" [ $rounds -gt 0 ]
cp "$tmp/part.0" "$tmp/torn.jsonl.part"
cp "$tmp/part.0" "$tmp/changed.jsonl.part"
batch -o "$out" -np 2
same "after the kills" "$tmp/ref.jsonl" "$out"

# a line that the kill cut off
size=$(wc -c <"$tmp/torn.jsonl.part")
head -c $((size - 9)) "$tmp/changed.jsonl.part" >"$tmp/torn.jsonl.part"
batch -o "$tmp/torn.jsonl" -np 5
same "after a torn line" "$tmp/ref.jsonl" "$tmp/torn.jsonl"

# what does not belong together
part=$tmp/changed.jsonl.part
keep=$(cksum <"$part")
refuses 1 "changed.jsonl.part: begun with other settings: --temp was \"default\", is 0.5; the same settings go on, removing the file begins anew" batch -m "$demo" -i "$tmp/in.jsonl" --think off -s 11 -o "$tmp/changed.jsonl" --temp 0.5
refuses 1 "other settings: seed was \"11\", is \"12\"; --top-k was \"default\", is 3;" batch -m "$demo" -i "$tmp/in.jsonl" --think off -s 12 --top-k 3 -o "$tmp/changed.jsonl"
sed '1s/"--temp":"default"/"--warmth":1/' "$part" >"$tmp/older.jsonl.part"
refuses 1 "settings: --temp was not there, is \"default\"; --warmth was 1, is not there;" batch -m "$demo" -i "$tmp/in.jsonl" --think off -s 11 -o "$tmp/older.jsonl"
sed '3s/Once/Twice/' "$tmp/in.jsonl" >"$tmp/in2.jsonl"
refuses 1 "the input has changed" batch -m "$demo" -i "$tmp/in2.jsonl" --think off -s 11 -o "$tmp/changed.jsonl"
is "the part file stays" "$(cksum <"$part")" "$keep"
sed '2s/index/xedni/' "$part" >"$tmp/damaged.jsonl.part"
refuses 1 "line 2 is damaged" batch -m "$demo" -i "$tmp/in.jsonl" --think off -s 11 -o "$tmp/damaged.jsonl"
refuses 1 "not an ordinary file" batch -m "$demo" -i "$tmp/in.jsonl" -o /dev/full
refuses 1 "No such file" batch -m "$demo" -i "$tmp/none.jsonl" -o "$tmp/none"
refuses 1 "holds no lines" batch -m "$demo" -i /dev/null -o "$tmp/none"
refuses 1 "No such file" batch -m "$tmp/none.gguf" -i "$tmp/in.jsonl" -o "$tmp/none"
check "nothing was begun" sh -c "! ls '$tmp' | grep -q '^none'"

# ---- pack caches
wanted=$(q logits -m "$demo" --ids "$tmp/a.ids" --hash)
for how in written mapped; do
    is "pack cache $how" "$(q logits -m "$demo" --ids "$tmp/a.ids" --hash --pack-cache "$tmp/demo.pack")" "$wanted"
done
is "its mode" "$(stat -c %a "$tmp/demo.pack")" 600
q inspect "$tmp/demo.pack" >"$tmp/out"
check "pack cache inspected" grep -q 'pack cache, format 1' "$tmp/out"
check "as JSON" sh -c "'$quern' inspect '$tmp/demo.pack' --json | grep -q '\"data_offset\":2097152'"
is "and good" "$(q inspect "$tmp/demo.pack" --check | sed 's/.*: //')" "0 damaged"
printf '\125' | dd of="$tmp/demo.pack" bs=1 seek=5000001 conv=notrunc 2>/dev/null
is "damaged content" "$(q inspect "$tmp/demo.pack" --check | sed 's/.*: //')" "1 damaged"
is "status" "$(q inspect "$tmp/demo.pack" --check >/dev/null; echo $?)" 1
check "where" grep -q 'bytes 2097152 to 6291455' "$tmp/err"
printf 'X' | dd of="$tmp/demo.pack" bs=1 seek=100 conv=notrunc 2>/dev/null
refuses 1 "head is wrong" inspect "$tmp/demo.pack"
refuses 1 "written anew" logits -m "$demo" --ids "$tmp/a.ids" --hash --pack-cache "$tmp/demo.pack"
refuses 1 "not a pack cache" logits -m "$demo" --ids "$tmp/a.ids" --hash --pack-cache "$tmp/a.ids"
refuses 1 "only one of" run -m "$demo" -p x -n 1 --pack-cache "$tmp/x.pack" --hugepages
mkdir "$tmp/xdg"
for how in written mapped; do
    is "automatic pack cache $how" \
        "$(XDG_CACHE_HOME=$tmp/xdg q logits -m "$demo" --ids "$tmp/a.ids" --hash --pack-cache auto)" "$wanted"
done
is "one file" "$(ls "$tmp/xdg/quern" | grep -c '^[0-9a-f]*\.pack$')" 1
is "the folder's mode" "$(stat -c %a "$tmp/xdg/quern")" 700
is "below HOME" "$(XDG_CACHE_HOME='' HOME=$tmp/xdg q run -m "$demo" -p "$start" -n 3 --temp 0 --pack-cache auto)" \
    ", there was"
check "as .cache" [ -d "$tmp/xdg/.cache/quern" ]
chmod 777 "$tmp/xdg/quern"
XDG_CACHE_HOME=$tmp/xdg
export XDG_CACHE_HOME
refuses 1 "everybody may write" run -m "$demo" -p x -n 1 --pack-cache auto
unset XDG_CACHE_HOME
(ulimit -f 2000 && q run -m "$demo" -p x -n 1 --pack-cache "$tmp/toolarge.pack" >/dev/null)
is "no room for a pack cache" $? 1
check "is said" grep -q '^quern: .*toolarge.pack: no room for' "$tmp/err"
check "no half cache" sh -c "! ls '$tmp' | grep -q toolarge"

# the disk is full: a limit on the size of files stands for it
(ulimit -f 2 && batch -o "$tmp/full.jsonl" -np 4)
is "full while answering" $? 1
check "is said" grep -q '^quern: .*full.jsonl.part: ' "$tmp/err"
check "no half output" [ ! -e "$tmp/full.jsonl" ]
batch -o "$tmp/full.jsonl" -np 4
same "and goes on when there is room" "$tmp/ref.jsonl" "$tmp/full.jsonl"
(ulimit -f 2 && q logits -m "$demo" --ids "$tmp/a.ids" --out "$tmp/toolarge")
is "full while writing logits" $? 1
(ulimit -f 2 && q perplexity -m "$demo" -f "$tmp/story" -c 64 --save-logits "$tmp/toolarge" >/dev/null)
is "full while saving predictions" $? 1
check "nothing half-written" sh -c "! ls '$tmp' | grep -q toolarge"
if [ -c /dev/full ]; then
    for c in "run -m $demo -p x -n 4" "logits -m $demo --ids $tmp/a.ids --out -" "inspect $demo" "run --help" \
        "template -m $demo --messages $tmp/m.json"; do
        # shellcheck disable=SC2086
        is "$c to a full disk" "$("$quern" $c 2>"$tmp/err" >/dev/full; echo $?)" 1
        check "is said" grep -q 'standard output: No space left' "$tmp/err"
    done
    refuses 1 "/dev/full: No space" logits -m "$demo" --ids "$tmp/a.ids" --out /dev/full
    check "/dev/full is still a device" [ -c /dev/full ]
fi

# ---- closed pipes: quiet, status 1
for c in "logits -m $demo --ids $tmp/a.ids --out -" "inspect $demo --json" "run -m $demo -p x -n 400 --ignore-eos --temp 0"; do
    rm -f "$tmp/closed"
    # shellcheck disable=SC2086
    {
        while [ ! -e "$tmp/closed" ]; do sleep 0.1; done
        "$quern" $c 2>"$tmp/err"
        echo $? >"$tmp/status"
    } | { exec <&-; : >"$tmp/closed"; }
    is "$c into a closed pipe" "$(cat "$tmp/status")" 1
    check "is silent" sh -c "! grep -i 'pipe' '$tmp/err'"
done

# ---- inspect, bench
q inspect "$demo" >"$tmp/inspect"
check "inspect" grep -q '^  blk.0.attn_qkv.weight .*256 x 512' "$tmp/inspect"
check "inspect cuts arrays" grep -q 'tokenizer.ggml.tokens .*\[4096\] .*\.\.\.$' "$tmp/inspect"
check "inspect adds up" grep -q '^  together ' "$tmp/inspect"
check "inspect --json" sh -c "'$quern' inspect '$demo' --json | grep -q '\"n_weights\": 18398128'"
check "inspect --check" sh -c "'$quern' inspect '$demo' --check | grep -q ': 0 with errors'"
cp "$demo" "$tmp/nan.gguf"
chmod u+w "$tmp/nan.gguf"
head -c 512 /dev/zero | tr '\0' '\377' | dd of="$tmp/nan.gguf" bs=1 seek=6000000 conv=notrunc 2>/dev/null
q inspect --topology >"$tmp/topology"
check "inspect --topology" grep -q '^workers  *[1-9]' "$tmp/topology"
check "inspect --topology: a processor with a worker" grep -q '^ *[0-9]\{1,\}  .* 0$' "$tmp/topology"
q inspect --topology "$demo" >"$tmp/topology"
check "inspect --topology: where a model lies" grep -q '^weights .*\(on node\|does not tell\)' "$tmp/topology"
check "inspect --topology --json" sh -c "'$quern' inspect --topology --json | grep -q '\"worker\": 0,'"
is "inspect --check finds" "$(q inspect "$tmp/nan.gguf" --check >"$tmp/out"; echo $?)" 1
check "where" grep -q '^blk\.[0-9].*row [0-9]* is the first' "$tmp/out"
refuses 1 "none.gguf: No such file" inspect "$tmp/none.gguf"
head -c 3000000 "$demo" >"$tmp/cut.gguf"
refuses 1 "cut.gguf" inspect "$tmp/cut.gguf"
refuses 1 "cut.gguf" run -m "$tmp/cut.gguf" -p x
echo "GGUX" >"$tmp/wrong.gguf"
refuses 1 "wrong.gguf" chat -m "$tmp/wrong.gguf"
refuses 1 "." run -m "$tmp" -p x
refuses 1 "[1-9][0-9]* would fit" perplexity -m "$demo" -f "$tmp/story" -c 16777216 -ctk f32 -ctv f32
refuses 1 "known" run -m "$demo" -p x --pre nonsense
q bench -m "$demo" -p 8 -n 2,0 -r 2 -t 1 --format csv >"$tmp/bench"
# the description holds two commas
is "bench, csv" "$(sed 1d "$tmp/bench" | cut -d, -f15,16,18 | tr '\n' ' ')" "8,0,2 0,2,2 "
check "its columns" sh -c "head -n 1 '$tmp/bench' | grep -q ',n_prompt,n_gen,.*,avg_ts,'"
check "bench, json" sh -c "'$quern' bench -m '$demo' -p 8 -n 0 -r 1 --format json 2>/dev/null | grep -q '\"n_prompt\":8,'"

echo "$n checks, $failed failed"
[ $failed -eq 0 ]
