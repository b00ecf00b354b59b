/* SPDX-License-Identifier: MIT */
/* Inside the chat-template language: what its files share.  The entry point is template_render() in text.h.
 *
 * The language is Jinja 3.1 (without include, import, extends and autoescape) with the settings, filters and sandbox
 * of the transformers library.  template_lex.c makes tokens, template_parse*.c a tree, template_eval*.c walk it; values
 * are in template_value.c, strings in template_string.c, the named functions in template_{filter,list,test,method}.c.
 *
 * A template comes from a stranger's file.  All memory is taken from one counted arena that is freed as a whole, each
 * piece of work is charged as steps, recursion is counted, and each failure leaves through tpl_fail(), a longjmp to
 * template_render(): so no function here returns an error or owns anything. */
#ifndef QUERN_TEMPLATE_H
#define QUERN_TEMPLATE_H

#include "base.h"
#include "text.h"

#include <setjmp.h>

enum { TPL_DATA = 0, TPL_TEXT = 1 }; /* mark of a byte: from the conversation, or written by the template */

enum tpl_type {
    T_MISSING, /* no value at all: an argument not given */
    T_UNDEFINED,
    T_NONE,
    T_BOOL,
    T_INT,
    T_FLOAT,
    T_STR,
    T_SEQ, /* lists, tuples and everything else that is a row of values: see enum seq_kind */
    T_DICT,
    T_NAMESPACE,
    T_LOOP, /* the `loop` variable */
    T_MACRO,
    T_FUNC, /* a named function, perhaps bound to a value */
    T_CYCLER,
    T_JOINER
};

struct val {
    enum tpl_type type;
    union {
        int64_t i; /* T_BOOL, T_INT */
        double f;
        struct str *s;
        struct seq *q;
        struct dict *d; /* T_DICT, T_NAMESPACE */
        struct undef *u;
        struct loop *loop;
        struct macro *macro;
        struct func *fn;
        struct gadget *gadget; /* T_CYCLER, T_JOINER */
    } u;
};

/* A growing buffer of text with the mark of every byte. */
struct sbuf {
    char *p;
    uint8_t *mark;
    size_t n, cap;
};

/* Immutable text, valid UTF-8; parts share memory. */
struct str {
    const char *p; /* [n], not NUL-terminated */
    const uint8_t *mark; /* [n] TPL_DATA or TPL_TEXT */
    size_t n; /* bytes */
    size_t n_char; /* characters, SIZE_MAX while not counted: use tpl_str_chars() */
    struct sbuf *buf; /* the buffer it stands in, if any: a + b appends there when a ends where the buffer ends */
    bool safe; /* marked by |safe or |escape: joined with other text, that is HTML-escaped, as Python's Markup does */
};

enum seq_kind { Q_LIST, Q_TUPLE, Q_GROUP /* tuple of groupby */, Q_KEYS, Q_VALUES, Q_ITEMS, Q_RANGE, Q_ITER };
struct seq {
    enum seq_kind kind;
    struct val *v; /* [n], NULL for Q_RANGE */
    size_t n, cap;
    size_t pos; /* Q_ITER: items already taken */
    int64_t start, stop, step; /* Q_RANGE */
};

struct dict_entry {
    struct val key, val;
    uint64_t hash;
};
struct dict {
    struct dict_entry *e; /* [n] in order of insertion */
    size_t n, cap;
    uint32_t *index; /* [n_index] entry + 1 at its hash, linear probing; NULL while n is small */
    size_t n_index;
};

struct undef {
    const struct str *name; /* variable, attribute or key */
    struct val owner, key; /* T_MISSING for a variable */
    const char *hint; /* the message, instead of all that */
};

struct loop {
    struct val cur, prev, next; /* next: T_MISSING while not looked at */
    struct val changed; /* arguments of the last loop.changed(), as a tuple */
    struct seq *src;
    size_t src_i; /* items taken from src */
    int64_t index0, depth0;
    int64_t length; /* -1 while not asked for */
    bool ended;
    bool filtered; /* the loop's `if` is still to be asked of each item */
    const struct node *node; /* the N_FOR */
    struct scope *outer;
};

struct macro {
    const struct node *node; /* N_MACRO */
    struct scope *scope; /* where it was defined */
};

struct gadget { /* cycler(...) and joiner(sep) */
    struct seq *items;
    size_t pos;
    struct val sep;
    bool used;
};

/* ---- named functions: filters, tests, globals, methods */

struct call {
    struct val self; /* piped, tested or bound value */
    struct val arg[6]; /* bound to the names in builtin.params; T_MISSING when not given */
    struct val *pos; /* [n_pos] arguments as written */
    size_t n_pos;
    struct dict *kw; /* NULL when none */
};
struct tpl;
struct builtin {
    const char *name;
    const char *params; /* "a b? c?": names, ? = may be left out; "*" = the function looks at pos and kw itself */
    struct val (*fn)(struct tpl *t, struct call *c);
};
struct func {
    const struct builtin *b;
    struct val self;
};

/* ---- tree */

enum node_kind {
    /* expressions                 name        a          b           c            list          list2 */
    N_CONST, /* value */
    N_NAME, /*                     variable */
    N_NSREF, /*                    variable    attribute in value */
    N_TUPLE, /*                                                                    items */
    N_LIST, /*                                                                     items */
    N_DICT, /*                                                                     key, value, ... */
    N_COND, /*                                 test       then        else | NULL */
    N_AND, /*                                  left       right */
    N_OR, /*                                   left       right */
    N_NOT, /*                                  operand */
    N_NEG, /*                                  operand */
    N_POS, /*                                  operand */
    N_COMPARE, /*                              first                               N_OPERAND: op, a */
    N_OPERAND,
    N_BINARY, /* op                            left       right */
    N_CONCAT, /*                                                                   parts */
    N_GETATTR, /*                  attribute   object */
    N_GETITEM, /*                              object     key */
    N_SLICE, /*                                start      stop        step         (of an N_GETITEM; may be NULL) */
    N_CALL, /*                                 callee     *args       **kwargs     positional    N_KEYWORD: name, a */
    N_FILTER, /*                   filter      input      *args       **kwargs     positional    N_KEYWORD */
    N_TEST, /*                     test        input      *args       **kwargs     positional    N_KEYWORD */
    N_KEYWORD,
    N_BLOCK_TEXT, /* the text of the filter or set block around */
    /* statements */
    N_TEXT, /* value */
    N_OUTPUT, /*                               expression */
    N_BODY, /*                                                                     statements */
    N_FOR, /* flag: recursive                  target     iterable    test | NULL  body          else */
    N_IF, /*                                                                       N_BRANCH: a = test | NULL, list */
    N_BRANCH,
    N_SET, /*                                  target     expression */
    N_SET_BLOCK, /*                            target     filters                  body */
    N_WITH, /*                                                                     target, value  body */
    N_MACRO, /* flags              macro                                           N_KEYWORD      body */
    N_CALL_BLOCK, /*                           N_CALL     N_MACRO */
    N_FILTER_BLOCK, /*                         filters                             body */
    N_SCOPE, /*                                                                    body */
    N_BLOCK, /* flag: scoped       block                                           body */
    N_BREAK,
    N_CONTINUE
};
enum { MACRO_CALLER = 1, MACRO_KWARGS = 2, MACRO_VARARGS = 4 }; /* special names that a macro's body mentions */

struct node_list {
    struct node **v;
    size_t n, cap;
};
struct node {
    enum node_kind kind;
    int op; /* enum tpl_tok of N_BINARY and N_OPERAND */
    int line;
    int height; /* of the tree below: bounds the walker's recursion */
    unsigned flags;
    const struct str *name; /* interned: equal names are one pointer */
    const struct builtin *builtin; /* N_FILTER, N_TEST; NULL: no such name */
    struct val value;
    struct node *a, *b, *c;
    struct node_list list, list2;
    const struct str **hidden; /* [n_hidden] names that its scope makes undefined at first: see template_scope.c */
    size_t n_hidden, hidden_cap;
};

enum tpl_tok {
    TOK_END,
    TOK_DATA,
    TOK_VAR_BEGIN,
    TOK_VAR_END,
    TOK_BLOCK_BEGIN,
    TOK_BLOCK_END,
    TOK_NAME,
    TOK_STRING,
    TOK_INT,
    TOK_FLOAT,
    TOK_ADD,
    TOK_SUB,
    TOK_MUL,
    TOK_DIV,
    TOK_FLOORDIV,
    TOK_MOD,
    TOK_POW,
    TOK_TILDE,
    TOK_EQ,
    TOK_NE,
    TOK_LT,
    TOK_LE,
    TOK_GT,
    TOK_GE,
    TOK_IN, /* operators of N_OPERAND only */
    TOK_NOT_IN,
    TOK_ASSIGN,
    TOK_DOT,
    TOK_COLON,
    TOK_COMMA,
    TOK_SEMICOLON,
    TOK_PIPE,
    TOK_LPAREN,
    TOK_RPAREN,
    TOK_LBRACKET,
    TOK_RBRACKET,
    TOK_LBRACE,
    TOK_RBRACE
};
struct token {
    enum tpl_tok type;
    int line;
    struct val value; /* TOK_DATA, TOK_NAME (interned), TOK_STRING, TOK_INT, TOK_FLOAT */
};

/* ---- the renderer */

struct var {
    const struct str *name;
    struct val v;
};
struct scope {
    struct scope *parent;
    struct var *v; /* [n] */
    size_t n, cap;
    bool kept; /* a macro refers to it: a loop may not use it again */
};

struct chunk;
struct tpl {
    jmp_buf failed;
    struct qn_error *err;
    const struct template_args *args;
    struct chunk *chunks;
    size_t mem_used, mem_max;
    uint64_t steps, steps_max;
    int depth, depth_max;
    int line; /* being parsed or run */
    struct dict *names; /* every name, interned */
    const struct str *loop_name, *caller_name, *kwargs_name, *varargs_name;
    const uint8_t *marks[2]; /* [n_marks] all TPL_DATA, all TPL_TEXT: shared by strings of one origin */
    size_t n_marks[2];
    struct scope *globals, *top;
    struct sbuf *out;
    struct val block_text; /* value of N_BLOCK_TEXT */
    uint64_t random;
    void *json; /* json_t being read */
};

/* template_value.c */
_Noreturn void tpl_fail(struct tpl *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
_Noreturn void tpl_fail_budget(struct tpl *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
_Noreturn void tpl_raise(struct tpl *t, const struct str *message); /* raise_exception() */
void *tpl_alloc(struct tpl *t, size_t bytes); /* zeroed, aligned to 16 */
void *tpl_grow(struct tpl *t, void *old, size_t n, size_t *cap, size_t size); /* room for n + 1 elements */
void tpl_free_all(struct tpl *t);
void tpl_step(struct tpl *t, size_t n);
static inline void tpl_work(struct tpl *t, size_t bytes) { tpl_step(t, bytes / 64); } /* bytes copied or looked at */
void tpl_enter(struct tpl *t); /* one level of recursion; paired with tpl_leave() */
static inline void tpl_leave(struct tpl *t) { t->depth--; }

static inline struct val tpl_none(void) { return (struct val){.type = T_NONE}; }
static inline struct val tpl_bool(bool b) { return (struct val){.type = T_BOOL, .u.i = b}; }
static inline struct val tpl_int(int64_t i) { return (struct val){.type = T_INT, .u.i = i}; }
static inline struct val tpl_float(double f) { return (struct val){.type = T_FLOAT, .u.f = f}; }
static inline struct val tpl_strval(struct str *s) { return (struct val){.type = T_STR, .u.s = s}; }
static inline struct val tpl_seqval(struct seq *q) { return (struct val){.type = T_SEQ, .u.q = q}; }
static inline struct val tpl_dictval(struct dict *d) { return (struct val){.type = T_DICT, .u.d = d}; }
struct val tpl_undef_name(struct tpl *t, const struct str *name);
struct val tpl_undef_key(struct tpl *t, struct val owner, struct val key);
struct val tpl_undef_hint(struct tpl *t, const char *hint);
_Noreturn void tpl_fail_undef(struct tpl *t, struct val v);

const char *tpl_type_name(struct val v); /* Python's */
bool tpl_truth(struct tpl *t, struct val v);
bool tpl_equal(struct tpl *t, struct val a, struct val b);
bool tpl_order(struct tpl *t, enum tpl_tok op, struct val a, struct val b); /* < <= > >= */
bool tpl_contains(struct tpl *t, struct val item, struct val in);
uint64_t tpl_hash(struct tpl *t, struct val v);
size_t tpl_length(struct tpl *t, struct val v);
bool tpl_has_length(struct val v);
bool tpl_is_number(struct val v); /* bool, int or float */
double tpl_as_double(struct val v); /* of a number */
int64_t tpl_as_int(struct tpl *t, struct val v, const char *what); /* bool or int, else fails */

struct seq *tpl_seq_new(struct tpl *t, enum seq_kind kind, size_t cap);
void tpl_seq_push(struct tpl *t, struct seq *q, struct val v);
struct val tpl_seq_get(const struct seq *q, size_t i);
struct val tpl_pair(struct tpl *t, struct val a, struct val b);
/* The items of anything that can be iterated: possibly the value itself, so not to be changed. */
struct seq *tpl_items(struct tpl *t, struct val v);
bool tpl_iterable(struct val v);
struct seq *tpl_list_of(struct tpl *t, struct val v); /* a new list */
void tpl_sort(struct tpl *t, struct val *v, struct val *keys, size_t n, bool reverse); /* stable */

struct dict *tpl_dict_new(struct tpl *t);
struct dict_entry *tpl_dict_find(struct tpl *t, const struct dict *d, struct val key); /* or NULL */
void tpl_dict_set(struct tpl *t, struct dict *d, struct val key, struct val v);
struct val *tpl_dict_cstr(struct tpl *t, const struct dict *d, const char *key); /* or NULL */
struct seq *tpl_dict_view(struct tpl *t, const struct dict *d, enum seq_kind kind);

static inline int tpl_show(const struct str *s) { return s->n < 80 ? (int)s->n : 80; } /* bytes for %.*s */

/* template_string.c */
const uint8_t *tpl_marks(struct tpl *t, int mark, size_t n);
struct str *tpl_str(struct tpl *t, const char *p, size_t n, int mark); /* does not copy */
struct str *tpl_str_copy(struct tpl *t, const char *p, size_t n, int mark);
struct val tpl_cstr(struct tpl *t, const char *s); /* a text of ours; does not copy */
struct str *tpl_sub(struct tpl *t, const struct str *s, size_t from, size_t to); /* bytes */
struct str *tpl_str_add(struct tpl *t, const struct str *a, const struct str *b);
struct str *tpl_str_escape(struct tpl *t, const struct str *s); /* for HTML; the result is safe */
const struct str *tpl_intern(struct tpl *t, const char *p, size_t n);
bool tpl_str_is(const struct str *s, const char *lit);
bool tpl_str_equal(const struct str *a, const struct str *b);
int tpl_str_cmp(const struct str *a, const struct str *b);
size_t tpl_str_chars(struct tpl *t, const struct str *s);
size_t tpl_str_offset(struct tpl *t, const struct str *s, size_t i); /* byte of character i; n past the end */
size_t tpl_str_find(struct tpl *t, const struct str *s, const struct str *what, size_t from); /* byte or SIZE_MAX */
uint32_t tpl_char(const char *p, size_t *n); /* one character of valid UTF-8; *n = its bytes */
size_t tpl_char_put(uint32_t c, char out[4]);
bool tpl_is_space(uint32_t c);
bool tpl_is_line_end(uint32_t c);
enum strip { STRIP_LEFT = 1, STRIP_RIGHT = 2, STRIP_BOTH = 3 };
struct str *tpl_strip(struct tpl *t, const struct str *s, const struct str *chars, enum strip side);
enum letter_case { CASE_LOWER, CASE_UPPER, CASE_TITLE };
void tpl_put_case(struct tpl *t, struct sbuf *b, const struct str *s, size_t from, size_t to, enum letter_case k);
struct str *tpl_case(struct tpl *t, const struct str *s, enum letter_case k);
bool tpl_is_case(struct tpl *t, const struct str *s, bool upper); /* str.isupper(), str.islower() */
struct str *tpl_capitalize(struct tpl *t, const struct str *s);
struct str *tpl_replace(struct tpl *t, const struct str *s, const struct str *old, const struct str *with, int64_t max);
struct seq *tpl_split_lines(struct tpl *t, const struct str *s, bool keep_ends);
struct str *tpl_join(struct tpl *t, const struct str *sep, struct val items, bool strict);

void tpl_put(struct tpl *t, struct sbuf *b, const char *p, size_t n, int mark);
void tpl_put_c(struct tpl *t, struct sbuf *b, const char *s, int mark);
void tpl_put_str(struct tpl *t, struct sbuf *b, const struct str *s);
void tpl_put_sub(struct tpl *t, struct sbuf *b, const struct str *s, size_t from, size_t to);
void tpl_put_char(struct tpl *t, struct sbuf *b, uint32_t c, int mark);
void tpl_put_fill(struct tpl *t, struct sbuf *b, char c, int64_t n, int mark);
struct sbuf *tpl_sbuf(struct tpl *t);
struct str *tpl_sbuf_str(struct tpl *t, struct sbuf *b); /* b may go on growing */

/* template_repr.c */
void tpl_float_repr(double f, char out[40]);
struct str *tpl_to_str(struct tpl *t, struct val v); /* Python's str() */
void tpl_put_repr(struct tpl *t, struct sbuf *b, struct val v); /* Python's repr() */
struct val tpl_to_json(struct tpl *t, struct call *c); /* the tojson filter */
/* A JSON array or object, all its text TPL_DATA; what names it in errors. */
struct val tpl_from_json(struct tpl *t, const char *text, const char *what, bool object);

/* template_format.c */
struct str *tpl_percent(struct tpl *t, const struct str *fmt, struct val args); /* fmt % args */
struct val tpl_str_format(struct tpl *t, struct call *c); /* str.format(...) */

/* template_lex.c, template_parse.c */
struct token *tpl_lex(struct tpl *t, const char *source, size_t n); /* ends with TOK_END */
struct node *tpl_parse(struct tpl *t, struct token *tokens);

/* template_eval.c */
void tpl_run(struct tpl *t, const struct node *root);
struct val tpl_getattr(struct tpl *t, struct val obj, const struct str *name);
struct val tpl_getitem(struct tpl *t, struct val obj, struct val key);
struct val tpl_call(struct tpl *t, struct val callee, struct call *c);
struct val tpl_call_builtin(struct tpl *t, const struct builtin *b, struct call *c);
void tpl_scope_set(struct tpl *t, struct scope *s, const struct str *name, struct val v);
struct val tpl_add(struct tpl *t, struct val a, struct val b);
struct val tpl_loop_attr(struct tpl *t, struct loop *l, const struct str *name); /* T_MISSING: none of that name */

/* template_filter.c, template_list.c, template_html.c, template_test.c, template_method.c */
struct val tpl_wordwrap(struct tpl *t, struct call *c); /* template_wrap.c */
const struct builtin *tpl_filter_find(const struct str *name); /* NULL: none */
const struct builtin *tpl_test_find(const struct str *name);
const struct builtin *tpl_method_find(struct val obj, const struct str *name);
const struct builtin *tpl_builtin_find(const struct builtin *table, const struct str *name); /* table ends with NULL */
extern const struct builtin tpl_list_filters[], tpl_html_filters[];
extern const struct builtin tpl_globals[];

#endif
