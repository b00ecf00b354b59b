"""Hash weights: the shared tables (models, tensors, kinds, metadata, tokenizer). See ../README.md."""
import os, ctypes, subprocess, math
import numpy as np
D=os.path.dirname(os.path.abspath(__file__))
T=os.path.normpath(D+'/../../..')             # tests/, whose writer of hash models is compiled for the hash functions
if not os.path.exists(D+'/libhw.so'): subprocess.check_call(['cc','-O2','-shared','-fPIC','-DTEST_DATA_DIR=""','-o',D+'/libhw.so',T+'/hashmodel.c',T+'/testing.c','-lxxhash','-lm'])
_l=ctypes.CDLL(D+'/libhw.so')
_l.hash_fill.argtypes=[ctypes.c_char_p,ctypes.c_uint64,ctypes.c_float,ctypes.c_float,ctypes.c_void_p]
_x=ctypes.CDLL('libxxhash.so.0')
_x.XXH64.restype=ctypes.c_uint64; _x.XXH64.argtypes=[ctypes.c_void_p,ctypes.c_size_t,ctypes.c_uint64]
def xxh64(b,seed=0):
    if isinstance(b,np.ndarray): b=np.ascontiguousarray(b); return _x.XXH64(b.ctypes.data,b.nbytes,seed)
    return _x.XXH64(bytes(b),len(b),seed)
M64=(1<<64)-1
def splitmix64(x):
    x=(x+0x9E3779B97F4A7C15)&M64; x=((x^x>>30)*0xBF58476D1CE4E5B9)&M64; x=((x^x>>27)*0x94D049BB133111EB)&M64; return x^x>>31
# ---------------------------------------------------------------- models
S=dict(H=256,L=4,V=512,ctx=4096)
HY=dict(**S,K=4,eps=1e-6,theta=1e7)
MODELS={
 'qwen3next':dict(**HY,nh=4,nkv=2,hd=64,rot=16,hk=2,hv=6,Dk=128,E=8,top=2,Fe=256,Fs=256,F=512,pre='qwen2'),
 'qwen35':   dict(**HY,nh=2,nkv=1,hd=256,rot=64,sect=[11,11,10,0],hk=2,hv=8,Dk=64,F=512,pre='qwen35'),
 'qwen35moe':dict(**HY,nh=4,nkv=2,hd=64,rot=16,sect=[3,3,2,0],hk=2,hv=6,Dk=128,E=8,top=2,Fe=256,Fs=256,pre='qwen35'),
 'qwen3':    dict(**S,nh=8,nkv=2,hd=64,F=512,eps=1e-6,theta=1e6,pre='qwen2'),
 'qwen3moe': dict(**S,nh=4,nkv=1,hd=128,F=512,E=8,top=2,Fe=256,eps=1e-6,theta=1e6,pre='qwen2'),
 'qwen2':    dict(**S,nh=4,nkv=2,hd=64,F=512,eps=1e-6,theta=1e6,pre='qwen2',tied=True),
 'llama':    dict(**S,nh=4,nkv=2,hd=64,F=512,eps=1e-6,theta=5e5,pre='qwen2',rope3=(8.0,1.0,4.0,128)),
 'gpt-oss':  dict(**S,nh=4,nkv=2,hd=64,F=256,E=4,top=2,Fe=256,swa=48,eps=1e-5,theta=150000.0,pre='qwen2',yarn=(32.0,128,32.0,1.0)),
 'kimi-linear':dict(**S,nh=4,nkv=4,Dk=128,K=4,lora=256,nope=64,rot=64,vd=64,F=512,E=8,top=2,Fe=256,eps=1e-5,wscale=2.446,pre='qwen2'),
}
HYBRID=('qwen3next','qwen35','qwen35moe')
NAMES=[]                                    # all files: arch or arch-mtp
for a in MODELS: NAMES+=[a]+([a+'-mtp'] if a in HYBRID else [])
SALT={a:'' for a in MODELS}                 # filled below: chosen so that routers and greedy steps are far from ties
SALT.update({'qwen35moe':'s1/','qwen3':'s2/','qwen3moe':'s7/','llama':'s1/','gpt-oss':'s3/','kimi-linear':'s3/'})
LABEL={'qwen3next':'8x4.3M','qwen3next-mtp':'8x5.1M','qwen35':'3.8M','qwen35-mtp':'4.8M','qwen35moe':'8x4.3M','qwen35moe-mtp':'8x5.1M','qwen3':'3.1M','qwen3moe':'8x2.4M','qwen2':'2.5M','llama':'2.6M','gpt-oss':'4x1.9M','kimi-linear':'8x4.4M'}  # general.size_label
def arch_of(name): return name[:-4] if name.endswith('-mtp') else name
# ---------------------------------------------------------------- kinds: (bias, scale)
def kind(arch,name):
    b=name.split('.'); s='.'.join(b[2:]) if b[0]=='blk' else name      # suffix without blk.N.
    if s=='ssm_a': return -129*2.0**-6,-2.0**-6
    if s=='ssm_dt.bias': return -2.5,2.0**-6
    if s in('attn_q_norm.weight','attn_k_norm.weight'): return 1.5,2.0**-8
    if s.endswith('norm.weight'): return 1.0,2.0**-9
    e=10
    if s=='token_embd.weight': e=9 if arch=='qwen2' else 7
    elif s=='output.weight' or s=='attn_q.weight' or s=='ffn_gate_inp.weight': e=9
    elif s.startswith('ssm_conv1d'): e=7
    elif s=='attn_sinks.weight': e=6
    elif s in('attn_q.bias','attn_k.bias','attn_v.bias','ffn_gate_inp.bias'): e=8
    elif s.endswith('.bias'): e=9
    elif arch=='gpt-oss' and s in('ffn_gate_exps.weight','ffn_up_exps.weight'): e=9
    elif arch=='gpt-oss' and s=='ffn_down_exps.weight': e=12
    return 0.0,2.0**-e
def is_f32(name): # F32 in every file type
    return name.endswith('ssm_a') or any(x in name for x in('norm.weight','ssm_conv1d','.bias','ffn_gate_inp','attn_sinks','rope_freqs'))
# ---------------------------------------------------------------- tensors, in file order: (name, ne)
def tensors(name):
    a=arch_of(name); m=MODELS[a]; H,V,L=m['H'],m['V'],m['L']; t=[]
    A=lambda n,*ne: t.append((n,ne))
    if a=='llama': A('rope_freqs.weight',m['hd']//2)
    A('token_embd.weight',H,V)
    if not m.get('tied'): A('output.weight',H,V)
    A('output_norm.weight',H)
    def moe(p,shared,gate):
        E,Fe=m['E'],m['Fe']
        A(p+'ffn_gate_inp.weight',H,E)
        if a=='gpt-oss': A(p+'ffn_gate_inp.bias',E)
        if a=='kimi-linear': A(p+'exp_probs_b.bias',E)
        for x,i,o in(('gate',H,Fe),('up',H,Fe),('down',Fe,H)):
            A(f'{p}ffn_{x}_exps.weight',i,o,E)
            if a=='gpt-oss': A(f'{p}ffn_{x}_exps.bias',o,E)
        if shared:
            if gate: A(p+'ffn_gate_inp_shexp.weight',H,1)
            for x,i,o in(('gate',H,shared),('up',H,shared),('down',shared,H)): A(f'{p}ffn_{x}_shexp.weight',i,o)
    def dense(p):
        for x,i,o in(('gate',H,m['F']),('up',H,m['F']),('down',m['F'],H)): A(f'{p}ffn_{x}.weight',i,o)
    def full(p):
        nh,nkv,hd=m['nh'],m['nkv'],m['hd']; g=2 if a in HYBRID else 1; b=a in('qwen2','gpt-oss')
        for x,o in(('q',nh*hd*g),('k',nkv*hd),('v',nkv*hd)):
            A(f'{p}attn_{x}.weight',H,o)
            if b: A(f'{p}attn_{x}.bias',o)
        if a in HYBRID or a in('qwen3','qwen3moe'):
            A(p+'attn_q_norm.weight',hd); A(p+'attn_k_norm.weight',hd)
        if a=='gpt-oss': A(p+'attn_sinks.weight',nh)
        A(p+'attn_output.weight',nh*hd,H)
        if a=='gpt-oss': A(p+'attn_output.bias',H)
    for i in range(L+(1 if name.endswith('-mtp') else 0)):
        p=f'blk.{i}.'; lin=a in HYBRID+('kimi-linear',) and i%4!=3 and i<L
        A(p+'attn_norm.weight',H)
        if a in HYBRID and lin:
            D,hk,hv=m['Dk'],m['hk'],m['hv']; cd=2*hk*D+hv*D
            A(p+'attn_qkv.weight',H,cd); A(p+'attn_gate.weight',H,hv*D)
            if a=='qwen3next': A(p+'ssm_ba.weight',H,2*hv)
            else: A(p+'ssm_alpha.weight',H,hv); A(p+'ssm_beta.weight',H,hv)
            A(p+'ssm_conv1d.weight',m['K'],cd); A(p+'ssm_a',hv); A(p+'ssm_dt.bias',hv); A(p+'ssm_norm.weight',D); A(p+'ssm_out.weight',hv*D,H)
        elif a=='kimi-linear' and lin:
            D,n=m['Dk'],m['nh']*m['Dk']
            for x in 'qkv': A(f'{p}attn_{x}.weight',H,n)
            for x in 'qkv': A(f'{p}ssm_conv1d_{x}.weight',m['K'],1,n,1)
            A(p+'ssm_f_a.weight',H,D); A(p+'ssm_f_b.weight',D,n); A(p+'ssm_dt.bias',n); A(p+'ssm_a',1,m['nh'],1,1); A(p+'ssm_beta.weight',H,m['nh'])
            A(p+'ssm_g_a.weight',H,D); A(p+'ssm_g_b.weight',D,n); A(p+'ssm_norm.weight',D); A(p+'attn_output.weight',n,H)
        elif a=='kimi-linear':
            nh=m['nh']; A(p+'attn_q.weight',H,nh*(m['nope']+m['rot'])); A(p+'attn_kv_a_mqa.weight',H,m['lora']+m['rot']); A(p+'attn_kv_a_norm.weight',m['lora'])
            A(p+'attn_k_b.weight',m['nope'],m['lora'],nh); A(p+'attn_v_b.weight',m['lora'],m['vd'],nh); A(p+'attn_output.weight',nh*m['vd'],H)
        else: full(p)
        A(p+('post_attention_norm' if a in HYBRID+('gpt-oss',) else 'ffn_norm')+'.weight',H)
        if a in('qwen3next','qwen35moe'): moe(p,m['Fs'],True)
        elif a=='kimi-linear' and i>0: moe(p,m['Fe'],False)
        elif a in('qwen3moe','gpt-oss'): moe(p,0,False)
        else: dense(p)
        if i==L:
            A(p+'nextn.eh_proj.weight',2*H,H); A(p+'nextn.enorm.weight',H); A(p+'nextn.hnorm.weight',H); A(p+'nextn.shared_head_norm.weight',H)
    return t
def rope_freqs(m):
    import torch
    f,lo,hi,old=m['rope3']; fr=1.0/(m['theta']**(torch.arange(0,m['hd'],2,dtype=torch.float32)/m['hd'])); r=[]
    for x in fr:
        w=2*math.pi/x
        r.append(1 if w<old/hi else f if w>old/lo else 1/((1-(s:=(old/w-lo)/(hi-lo)))/f+s))
    return torch.tensor(r,dtype=torch.float32).numpy()
def weight(arch,name,ne,salt=None):
    """numpy array (shape = reversed ne), float32"""
    if name=='rope_freqs.weight': return rope_freqs(MODELS[arch])
    n=int(np.prod(ne)); out=np.empty(n,np.float32); b,s=kind(arch,name)
    _l.hash_fill(((SALT[arch] if salt is None else salt)+name).encode(),n,b,s,out.ctypes.data)
    return out.reshape(ne[::-1])
def all_weights(name,salt=None): return {n:weight(arch_of(name),n,ne,salt) for n,ne in tensors(name)}
# ---------------------------------------------------------------- tokenizer
def byte_alphabet():
    bs=list(range(33,127))+list(range(161,173))+list(range(174,256)); d={b:chr(b) for b in bs}; n=0
    for b in range(256):
        if b not in d: d[b]=chr(256+n); n+=1
    return [d[b] for b in range(256)]
def tokenizer():
    L='etaoinshrdlu'; G=chr(0x120); merges=[(x,y) for x in L for y in L]+[(G,chr(97+i)) for i in range(26)]
    pair=[x+y for x in L for y in L]
    merges+=[(pair[i*37%144],pair[(i*59+11)%144]) for i in range(70)]
    toks=byte_alphabet()+[x+y for x,y in merges]
    sp=[('<|endoftext|>',True),('<|im_start|>',True),('<|im_end|>',True),('<|fim_prefix|>',False),('<|fim_middle|>',False),('<|fim_suffix|>',False),('<think>',False),('</think>',False),('<tool_call>',False),('</tool_call>',False),('<tool_response>',False),('</tool_response>',False)]
    types=[1]*496+[3]*6+[4]*6+[5]*4
    full=toks+[s for s,_ in sp]+[f'[PAD{i}]' for i in range(508,512)]
    assert len(toks)==496 and len(set(full))==512
    return full,types,merges,sp
CHAT="{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
PROMPTS=[1,7,64,65,130,200]
def prompt(n):
    b=xxh64(f'prompt:{n}'.encode()); return [(splitmix64((b+i)&M64)>>32)%496 for i in range(n)]
# ---------------------------------------------------------------- metadata, in file order: (key, type, value)
def metadata(name,ftype):
    a=arch_of(name); m=MODELS[a]; mtp=name.endswith('-mtp'); kv=[]; 
    def K(k,t,v): kv.append((k,t,v))
    A=lambda k,t,v: K(f'{a}.{k}',t,v)
    K('general.architecture','str',a); K('general.type','str','model'); K('general.name','str','hash '+name); K('general.size_label','str',LABEL[name])
    A('block_count','u32',m['L']+mtp); A('context_length','u32',m['ctx']); A('embedding_length','u32',m['H'])
    if a!='qwen35moe': A('feed_forward_length','u32',m['F'])
    A('attention.head_count','u32',m['nh'])
    if a=='kimi-linear': A('attention.head_count_kv','i32[]',[0,0,0,1])
    else: A('attention.head_count_kv','u32',m['nkv'])
    if 'yarn' in m:
        f,o,bf,bs=m['yarn']; A('rope.scaling.type','str','yarn'); A('rope.scaling.factor','f32',f); A('rope.scaling.original_context_length','u32',o); A('rope.scaling.yarn_beta_fast','f32',bf); A('rope.scaling.yarn_beta_slow','f32',bs)
    if 'sect' in m: A('rope.dimension_sections','i32[]',m['sect'])
    if 'theta' in m: A('rope.freq_base','f32',m['theta'])
    A('attention.layer_norm_rms_epsilon','f32',m['eps'])
    if 'E' in m: A('expert_count','u32',m['E']); A('expert_used_count','u32',m['top'])
    if a=='kimi-linear': A('expert_group_used_count','u32',1); A('expert_gating_func','u32',2)
    if a=='kimi-linear': A('attention.key_length','u32',m['lora']+m['rot']); A('attention.value_length','u32',m['vd'])
    elif a!='qwen2': A('attention.key_length','u32',m['hd']); A('attention.value_length','u32',m['hd'])
    K('general.file_type','u32',ftype)
    if a=='gpt-oss': A('attention.sliding_window','u32',m['swa'])
    if 'Fe' in m and a!='kimi-linear': A('expert_feed_forward_length','u32',m['Fe'])
    if 'Fs' in m: A('expert_shared_feed_forward_length','u32',m['Fs'])
    if mtp: A('nextn_predict_layers','u32',1)
    if a in HYBRID:
        A('ssm.conv_kernel','u32',m['K']); A('ssm.state_size','u32',m['Dk']); A('ssm.group_count','u32',m['hk']); A('ssm.time_step_rank','u32',m['hv']); A('ssm.inner_size','u32',m['hv']*m['Dk'])
        A('full_attention_interval','u32',4); A('rope.dimension_count','u32',m['rot'])
    if a in('llama','kimi-linear'): A('vocab_size','u32',m['V'])
    if a=='llama': A('rope.dimension_count','u32',m['hd'])
    if a=='kimi-linear':
        A('ssm.conv_kernel','u32',m['K']); A('kda.head_dim','u32',m['Dk']); A('attention.kv_lora_rank','u32',m['lora']); A('rope.dimension_count','u32',m['rot'])
        A('attention.key_length_mla','u32',m['nope']+m['rot']); A('attention.value_length_mla','u32',m['vd']); A('expert_feed_forward_length','u32',m['Fe'])
        A('expert_shared_count','u32',1); A('leading_dense_block_count','u32',1); A('expert_weights_scale','f32',m['wscale'])
    K('general.quantization_version','u32',2)
    full,types,merges,_=tokenizer()
    if a=='llama': K('tokenizer.ggml.add_space_prefix','bool',False)
    K('tokenizer.ggml.model','str','gpt2'); K('tokenizer.ggml.pre','str',m['pre']); K('tokenizer.ggml.tokens','str[]',full); K('tokenizer.ggml.token_type','i32[]',types)
    K('tokenizer.ggml.merges','str[]',[f'{x} {y}' for x,y in merges]); K('tokenizer.ggml.eos_token_id','u32',498); K('tokenizer.ggml.padding_token_id','u32',496); K('tokenizer.ggml.add_bos_token','bool',False)
    K('tokenizer.chat_template','str',CHAT)
    return kv
# ---------------------------------------------------------------- hash-quantized tensors (no quantizer needed)
class HashQuant(ctypes.Structure): # struct hash_quant of hashmodel.h
    _fields_=[('name',ctypes.c_char_p)]+[(k,ctypes.c_int) for k in('id','block','bytes','d_at','d_exponent','m_at','m_exponent','m_sign','d_is_e8m0','no_minus_128')]
_l.hash_fill_blocks.argtypes=[ctypes.c_char_p,ctypes.POINTER(HashQuant),ctypes.c_uint64,ctypes.c_int,ctypes.c_void_p]
# type: (ggml id, block elements, block bytes, d is f16 (2: and no -128), offset of d, unused, offset of dmin/m or -1, its exponent field minus d's, its sign relative to d's)
HQ={'Q4_0':(2,32,18,1,0,0,-1,0,0),'Q4_1':(3,32,20,1,0,0,2,3,1),'Q5_0':(6,32,22,1,0,0,-1,0,0),'Q5_1':(7,32,24,1,0,0,2,4,1),'Q8_0':(8,32,34,2,0,0,-1,0,0),
 'Q2_K':(10,256,84,1,80,0,82,0,0),'Q3_K':(11,256,110,1,108,0,-1,0,0),'Q4_K':(12,256,144,1,0,0,2,3,0),'Q5_K':(13,256,176,1,0,0,2,4,0),'Q6_K':(14,256,210,1,208,0,-1,0,0),
 'IQ2_XXS':(16,256,66,1,0,0,-1,0,0),'IQ2_XS':(17,256,74,1,0,0,-1,0,0),'IQ3_XXS':(18,256,98,1,0,0,-1,0,0),'IQ1_S':(19,256,50,1,0,0,-1,0,0),'IQ4_NL':(20,32,18,1,0,0,-1,0,0),
 'IQ3_S':(21,256,110,1,0,0,-1,0,0),'IQ2_S':(22,256,82,1,0,0,-1,0,0),'IQ4_XS':(23,256,136,1,0,0,-1,0,0),'MXFP4':(39,32,17,0,0,0,-1,0,0)}
HQX={'Q4_0':8,'Q4_1':8,'Q5_0':7,'Q5_1':7,'Q8_0':4,'Q2_K':7,'Q3_K':5,'Q4_K':2,'Q5_K':1,'Q6_K':1,'IQ2_XXS':5,'IQ2_XS':5,'IQ3_XXS':3,'IQ1_S':8,'IQ4_NL':5,'IQ3_S':3,'IQ2_S':5,'IQ4_XS':1,'MXFP4':122}  # exponent field of d for scale 2^-10
def weight_q(arch,name,ne,T,salt=None):
    """uint8 [rows, bytes] of the hash-quantized tensor"""
    i,be,bs,d16,do,_,mo,mx,ms=HQ[T]; n=int(np.prod(ne)); assert ne[0]%be==0
    e=-int(round(math.log2(kind(arch,name)[1]))); q=HashQuant(T.encode(),i,be,bs,do,HQX[T],mo,mx,ms,d16==0,d16==2); out=np.empty(n//be*bs,np.uint8)
    _l.hash_fill_blocks(((SALT[arch] if salt is None else salt)+name+'|'+T).encode(),ctypes.byref(q),n//be,e,out.ctypes.data)
    return out.reshape(-1,ne[0]//be*bs)
